"""A probe from data to report: what is missing is asked, everything answered is scored."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from verl_mars.data.readers import as_files, row_batches
from verl_mars.data.view_rows import ViewedRows
from verl_mars.errors import DataError, UsageError
from verl_mars.fields import FieldDict, Fields
from verl_mars.probe.engine import Answer, Engine, Missing, ProbeError
from verl_mars.probe.figures import Figures, ScoredRow, compare, compute
from verl_mars.probe.folder import Folder, Line, read_identity, read_lines
from verl_mars.probe.options import Options, identity
from verl_mars.probe.pictures import Pictures
from verl_mars.probe.questions import Question, Questions, Slot
from verl_mars.probe.scoring import check_truths, gather, in_frame_of_model, score_line
from verl_mars.probe.summary import summarize, write_files
from verl_mars.probe.verdict import check_condition

_LENT = ("task", "coordinates", "image_sizes", "seen_sizes", "index", "split", "sample_id", "group")


@dataclass(frozen=True)
class Outcome:
    """What a probe ended with."""

    figures: Figures
    summary: FieldDict
    missing: Counter[str]
    """View -> answers that could not be had."""
    stopped: ProbeError | None
    """Why nothing was asked any more."""


def read_rows(files: Sequence[Path], limit: int | None, seed: int) -> list[tuple[int, FieldDict]]:
    """(position, row) of the rows of the files; with ``limit`` a random choice, which a larger limit adds to.

    Raises:
        DataError: a file that cannot be read, or no rows.
    """
    listed = as_files(files)
    chosen = set(range(sum(len(batch) for file in listed for batch in row_batches(file, ["data_source"]))))
    if not chosen:
        raise DataError(f"{', '.join(listed)}: no rows")
    if limit is not None and limit < len(chosen):

        def rank(number: int) -> bytes:
            return hashlib.blake2b(f"{seed}|{number}".encode(), digest_size=8).digest()

        chosen = set(sorted(chosen, key=rank)[:limit])
    every = enumerate(row for file in listed for batch in row_batches(file) for row in batch)
    numbered = [(number, row) for number, row in every if number in chosen]
    for number, row in numbered:
        missing = [key for key in ("prompt", "images", "reward_model", "extra_info", "sources") if not row.get(key)]
        if missing:
            raise DataError(f"row {number}: `{missing[0]}` is missing or empty; see docs/data-format.md")
    return numbered


def probe(options: Options, engine: "EngineMaker") -> Outcome:
    """Ask what is not answered yet, score, and write summary, report and leaderboard.

    Args:
        options: what and how.
        engine: makes what answers; called only where something is left to ask.

    Raises:
        DataError: the rows cannot be probed.
        ProbeError: the folder holds another probe, or the model cannot be asked.
    """
    numbered = read_rows(options.data, options.limit, options.sampling.seed)
    rows = [row for _, row in numbered]
    _check(options, rows)
    local = options.model if options.server is None else None
    reward = in_frame_of_model(options.reward, rows, local, options.max_pixels)
    options = replace(options, reward=reward)
    other = _other(options)
    check_truths(rows, options.reward)
    viewed = ViewedRows(rows, options.kinds, mono_prompt=options.mono_prompt, seed=options.sampling.seed)
    pictures = Pictures(options.max_pixels)
    questions = Questions(viewed, pictures, options.sampling, options.model)
    slots = list(tqdm(questions.slots(), "reading rows", unit=" questions", disable=None, leave=False))
    folder = Folder(options.out, identity(options))
    done = {(line.row, line.view, line.sample, line.key): line for line in folder.lines()}
    answers = {line.key: line.answer for line in done.values()}
    waiting: dict[str, list[Slot]] = {}
    for slot in slots:
        if slot.key not in answers:
            waiting.setdefault(slot.key, []).append(slot)
    asked = _checked(engine(pictures), questions, waiting) if waiting else None
    stopped = None
    reasons: Counter[str] = Counter()
    with folder.append() as file:

        def write(slot: Slot, answer: Answer) -> None:
            file.write(_entry(numbered[slot.row], questions, slot, answer))

        for slot in slots:
            if slot.key in answers and (numbered[slot.row][0], slot.view, slot.sample, slot.key) not in done:
                write(slot, answers[slot.key])
        if asked is not None:
            try:
                _ask(asked, questions, waiting, answers, reasons, write)
            except ProbeError as error:
                stopped = error
    wanted = {(numbered[slot.row][0], slot.view, slot.sample, slot.key) for slot in slots}
    lines = {(line.row, line.view, line.sample, line.key): line for line in folder.lines()}
    scored = [score_line(lines[place], options.reward) for place in sorted(wanted & set(lines))]
    missing = Counter(slot.view for slot in slots if slot.key not in answers)
    scored_rows = gather(scored)
    if not scored_rows:
        raise stopped or ProbeError(f"nothing was answered: {reasons.most_common(1)[0][0]}")
    figures = compute(scored_rows, power=options.power, seed=options.sampling.seed)
    summary = summarize(options, figures, scored, slots, missing, reasons, viewed, len(numbered))
    if other is not None:
        summary["compared"] = _compared(options, scored_rows, other)
    write_files(options, summary, figures, numbered, viewed, pictures, scored)
    return Outcome(figures, summary, missing, stopped)


def _check(options: Options, rows: Sequence[Fields]) -> None:
    """Refuse what would be found out only after everything was asked."""
    if options.condition is not None:
        sources = tuple(dict.fromkeys(source["name"] for row in rows for source in row["sources"]))
        check_condition(options.condition[0], sources, options.kinds)
    if options.power is not None and not 0 < options.power <= 1:
        raise UsageError(f"--power {options.power}: the gain must be above 0 and at most 1, such as 0.03")


class EngineMaker:
    """Makes the engine that the options name."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def __call__(self, pictures: Pictures) -> Engine:
        options = self.options
        if options.server is not None:
            from verl_mars.probe.server import Server

            return Server(
                options.server, options.model, pictures, options.sampling, options.concurrency, options.timeout
            )
        from verl_mars.probe.offline import Offline

        return Offline(options.model, pictures, options.sampling, batch=options.batch, device=options.device)


def _checked(engine: Engine, questions: Questions, waiting: Mapping[str, Sequence[Slot]]) -> Engine:
    """The engine, after it took a question with images, if one is waiting."""
    first = [slots[0] for slots in waiting.values()]
    engine.check(questions.question(next((s for s in first if _has_images(questions.question(s))), first[0])))
    return engine


def _ask(
    engine: Engine,
    questions: Questions,
    waiting: Mapping[str, Sequence[Slot]],
    answers: dict[str, Answer],
    reasons: Counter[str],
    write: Callable[[Slot, Answer], None],
) -> None:
    """Ask one question a key; an answer is written for every slot of its key."""
    with tqdm(total=len(waiting), desc="asking", unit=" answers", disable=None, file=sys.stderr) as bar:

        def record(question: Question, answer: Answer | Missing) -> None:
            bar.update()
            if isinstance(answer, Missing):
                reasons[answer.reason] += 1
                bar.set_postfix(missing=sum(reasons.values()), refresh=False)
                return
            answers[question.key] = answer
            for slot in waiting[question.key]:
                write(slot, answer)

        def asked() -> Iterator[Question]:
            for slots in waiting.values():
                yield questions.question(slots[0])

        engine.ask(asked(), record)


def _has_images(question: Question) -> bool:
    contents = [message["content"] for message in question.messages]
    return any(part["type"] == "image" for content in contents if isinstance(content, list) for part in content)


def _entry(numbered: tuple[int, Fields], questions: Questions, slot: Slot, answer: Answer) -> FieldDict:
    """A line of ``responses.jsonl``, with all that scoring it again takes."""
    number, row = numbered
    view, extra = questions.views(slot.row)[slot.view], dict(row["extra_info"])
    if questions.pictures.max_pixels is not None:
        extra.pop("seen_sizes", None)  # of larger images
    return {
        "key": slot.key,
        "row": number,
        "index": extra.get("index"),
        "sample_id": extra.get("sample_id"),
        "view": view.name,
        "kind": view.kind,
        "sample": slot.sample,
        "response": answer.text,
        "cut_off": answer.cut_off,
        "tokens": answer.tokens,
        "task": extra.get("task"),
        "data_source": f"{row['data_source']}@{view.name}",
        "sources": [source["name"] for source in row["sources"]],
        "group": extra.get("group"),
        "ground_truth": view.ground_truth,
        "extra_info": {key: extra[key] for key in _LENT if extra.get(key) is not None},
    }


def _other(options: Options) -> list[Line] | None:
    """The answers to compare to; they must be about the same data."""
    if options.compare is None:
        return None
    theirs, ours = read_identity(options.compare), identity(options)
    if [file.get("sha256") for file in theirs.get("data", [])] != [file["sha256"] for file in ours["data"]]:
        raise ProbeError(f"--compare {options.compare} is a probe of other data; both must be of the same files")
    return read_lines(options.compare)


def _compared(options: Options, rows: Sequence[ScoredRow], lines: Sequence[Line]) -> FieldDict:
    others = gather(score_line(line, options.reward) for line in lines)
    assert options.compare is not None
    return {
        "with": read_identity(options.compare)["model"],
        "folder": str(options.compare),
        "differences": compare(rows, others, seed=options.sampling.seed),
    }
