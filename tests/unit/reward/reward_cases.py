"""What responses deserve: a table written by hand, each case with its reason.

``acc`` and ``form`` are the expected accuracy and format; the test weighs them 0.9 and 0.1. "Fault n" is the n-th fault
of the authors' scorers in docs/rewards.md.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    task: str
    truth: dict[str, Any]
    response: str
    acc: float
    form: float
    why: str
    settings: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def answered(answer: str) -> str:
    return f"<think>I look.</think><answer>{answer}</answer>"


def vqa(answers: list[str], *rows: tuple[str, float, str]) -> list[Case]:
    return [Case("vqa", {"answers": answers}, answered(text), acc, 1.0, why) for text, acc, why in rows]


def mcq(letter: str, choices: list[str], *rows: tuple[str, float, str]) -> list[Case]:
    truth = {"letter": letter, "text": choices[ord(letter) - ord("A")], "choices": choices}
    return [Case("mcq", truth, answered(text), acc, 1.0, why) for text, acc, why in rows]


def count(value: int, *rows: tuple[str, float, str]) -> list[Case]:
    return [Case("count", {"value": value}, answered(text), acc, 1.0, why) for text, acc, why in rows]


def math(answer: str, *rows: tuple[str, float, str]) -> list[Case]:
    return [Case("math", {"answer": answer}, answered(text), acc, 1.0, why) for text, acc, why in rows]


def boxes(truth: dict[str, Any], *rows: tuple[Any, ...]) -> list[Case]:
    return [Case("grounding", truth, answered(row[0]), row[1], row[2], row[3], *row[4:]) for row in rows]


# ------------------------------------------------------------------------------------------------ yes and no

YES = vqa(
    ["Yes"],
    ("Yes", 1, "the answer itself"),
    ("yes", 1, "case does not matter"),
    ("YES!", 1, "nor punctuation"),
    (" yes ", 1, "nor white space"),
    ("**Yes**", 1, "nor Markdown emphasis"),
    ("Yes, there is a sidewalk on the left.", 1, "a sentence that starts with its verdict"),
    ("There is a person on the left, so yes", 1, "a sentence that ends with its verdict"),
    ("The answer is yes.", 1, "a lead-in"),
    ("Answer: Yes", 1, "another lead-in"),
    ("I am sure. Yes.", 1, "the verdict is a sentence of its own at the end"),
    ("Yes, I would say yes.", 1, "both ends agree"),
    ("No", 0, "the other verdict"),
    ("yes or no", 0, "hedging (fault 19: full marks in the authors' evaluation)"),
    ("Yes and no", 0, "hedging: no verdict at either end"),
    ("Yes/No", 0, "hedging with a slash"),
    ("Yes, no", 0, "the two ends contradict each other"),
    ("No, wait, yes", 0, "the two ends contradict each other"),
    ("e", 0, "fault 2: a letter of 'yes' is not yes"),
    ("ye", 0, "a part of the word is not the word"),
    ("eyes", 0, "a word that contains the answer is not the answer"),
    ("yesterday", 0, "a word that starts with the answer is not the answer"),
    ("y", 0, "an abbreviation nobody asked for"),
    ("true", 0, "another vocabulary than the question's"),
    ("maybe", 0, "no verdict"),
)
NO = vqa(
    ["No"],
    ("no.", 1, "the answer itself"),
    ("No, there is not.", 1, "a sentence that starts with its verdict"),
    ("not sure", 0, "fault 2: contains the letters of 'no'"),
    ("unknown", 0, "fault 2: contains the letters of 'no'"),
    ("cannot tell", 0, "fault 2: contains the letters of 'no'"),
    ("No idea", 0, "starts with the word but is no verdict"),
    ("none", 0, "another word"),
    ("I do not know.", 0, "no verdict"),
    ("nothing", 0, "starts with the letters of the answer"),
    ("yes", 0, "the other verdict"),
    ("Yes, there is no doubt.", 0, "'no' inside a sentence whose verdict is yes"),
)

# ------------------------------------------------------------------------------------------------ words

WORDS = [
    *vqa(
        ["red"],
        ("red", 1, "the answer itself"),
        ("Red.", 1, "case and punctuation"),
        ("the red", 1, "an article"),
        ("It is red", 1, "a lead-in"),
        ("it's red.", 1, "a lead-in"),
        ("The final answer is: red", 1, "a lead-in with a colon"),
        ("`red`", 1, "Markdown code"),
        ("\u201cred\u201d", 1, "typographic quotes around it"),
        ("r", 0, "fault 2: a letter of the answer"),
        ("bored", 0, "contains the answer's letters"),
        ("dark red", 0, "another answer that contains the answer"),
        ("red or blue", 0, "hedging"),
        ("red, blue, green, yellow", 0, "listing everything"),
        ("not red", 0, "a denial"),
        ("redred", 0, "twice in one word"),
        ("blue", 0, "wrong"),
        (".", 0, "punctuation only"),
        ("the", 0, "an article only"),
    ),
    *vqa(
        ["top left", "upper left"],
        ("Top-left", 1, "a hyphen is a space"),
        ("upper left", 1, "the other accepted answer"),
        ("top  left corner", 0, "more words than the accepted answers"),
        ("left top", 0, "word order matters"),
        ("left", 0, "half of the answer"),
        ("top left\n", 1, "a line break at the end"),
        ("TOP_LEFT", 1, "an underscore is a space"),
    ),
    *vqa(
        ["caf\u00e9"],
        ("cafe\u0301", 1, "the same letters in another Unicode form"),
        ("\uff43\uff41\uff46\u00e9", 1, "full-width letters"),
        ("cafe", 0, "an accent is part of a word"),
    ),
    *vqa(["C++"], ("c++", 1, "symbols that belong to a word"), ("C", 0, "another language")),
    *vqa(["$"], ("$", 1, "an answer that is a symbol"), ("\u20ac", 0, "another symbol"), ("?", 0, "another symbol")),
    *vqa(["A"], ("a", 1, "an answer that looks like an article"), ("the", 0, "another article")),
    *vqa(
        ["\u9053\u8def"],
        ("\u9053\u8def\u3002", 1, "Chinese with its own full stop"),
        ("\u8def", 0, "a part of the word"),
    ),
]

# ------------------------------------------------------------------------------------------------ numbers

NUMBERS = [
    *vqa(
        ["three", "3"],
        ("3", 1, "digits"),
        ("three", 1, "a word"),
        ("Three.", 1, "a word with a capital"),
        ("there are 3", 1, "fault 4: a sentence with one number"),
        ("There are three of them.", 1, "the same in words"),
        ("03", 1, "a leading zero"),
        ("3.0", 1, "a fraction of zeros"),
        ("thirteen", 0, "fault 2: contains the letters of neither"),
        ("13", 0, "fault 2: '3' is in '13'"),
        ("30", 0, "another number"),
        ("or", 0, "fault 2: 'or' is in 'three or 3'"),
        ("r", 0, "fault 2"),
        ("3 or 4", 0, "two numbers"),
        ("between 2 and 3", 0, "two numbers"),
        ("3-4", 0, "a range"),
        ("a few", 0, "no number"),
    ),
    *vqa(["thirteen", "13"], ("3", 0, "fault 2: full marks for a digit of the number"), ("thirteen", 1, "right")),
    *vqa(["ten", "10"], ("1", 0, "fault 2: '1' is in '10'"), ("ten", 1, "right"), ("10", 1, "right")),
    *vqa(["21"], ("twenty-one", 1, "a compound in words"), ("twenty one", 1, "without hyphen"), ("2 1", 0, "apart")),
    *vqa(["1000"], ("1,000", 1, "a thousands separator"), ("one thousand", 1, "in words"), ("100", 0, "wrong")),
    *count(
        3,
        ("3", 1, "digits"),
        ("three", 1, "a word"),
        ("There are three people.", 1, "a sentence"),
        ("3 people, that is three.", 1, "the same number twice"),
        ("III", 0, "Roman numbers are not read"),
        ("2", 0, "wrong"),
        ("33", 0, "wrong"),
        ("3 of 5", 0, "two numbers"),
        ("3.5", 0, "not a whole number"),
        ("-3", 0, "another number"),
        ("several", 0, "no number"),
        ("1e400", 0, "not three, and no crash"),
        ("9" * 500, 0, "a huge number"),
    ),
    *count(
        0,
        ("0", 1, "digits"),
        ("zero", 1, "a word"),
        ("none", 1, "another word"),
        ("None.", 1, "with a full stop"),
        ("There are no buses.", 1, "a sentence without a number"),
        ("no idea", 0, "not a count"),
        ("o", 0, "a letter"),
        ("1", 0, "wrong"),
    ),
    *count(105, ("one hundred and five", 1, "a long number in words"), ("one hundred", 0, "another number")),
]

# ------------------------------------------------------------------------------------------------ choices

BOOKS = ["not the same", "Travel", "Lonely Planet", "Medical Books"]
CHOICES = [
    *mcq(
        "B",
        BOOKS,
        ("B", 1, "the letter"),
        ("b", 1, "small"),
        ("B.", 1, "with a full stop"),
        ("(B)", 1, "in brackets"),
        ("[B]", 1, "in square brackets"),
        ("B)", 1, "with a bracket"),
        ("**B**", 1, "emphasised"),
        ("Option B", 1, "with the word"),
        ("The answer is B.", 1, "a lead-in"),
        ("The correct option is (B)", 1, "a longer lead-in"),
        ("Travel", 1, "fault 3: the right text without its letter"),
        ("travel.", 1, "case and punctuation"),
        ("B. Travel", 1, "letter and text"),
        ("(b) travel", 1, "letter and text, other signs"),
        ("B Travel", 1, "letter and text without a sign"),
        ("B: Travel", 1, "letter and text with a colon"),
        ("Travel (B)", 1, "text and letter"),
        ("A", 0, "wrong letter"),
        ("C. Lonely Planet", 0, "wrong choice"),
        ("B. Medical Books", 0, "letter and text contradict each other"),
        ("A or B", 0, "two letters"),
        ("A, B, C, D", 0, "all letters"),
        ("ABCD", 0, "all letters in one word"),
        ("B. C.", 0, "two letters"),
        ("E", 0, "a letter without a choice"),
        ("Z.", 0, "a letter without a choice"),
        ("Travel or Medical Books", 0, "two texts"),
        ("travels", 0, "another word"),
        ("Books", 0, "a part of a choice"),
        ("I think it is about travelling", 0, "names no choice"),
        ("2", 0, "a position is not a letter"),
        ("BB", 0, "not a letter"),
    ),
    *mcq(
        "A",
        BOOKS,
        ("A", 1, "the letter that is an article too"),
        ("not the same", 1, "the text"),
        ("Not the same.", 1, "the text with other signs"),
        ("the same", 0, "the opposite"),
        ("C. Lonely Planet", 0, "fault 3: contains the letter 'a'"),
        ("D. Medical Books", 0, "fault 3: contains the letter 'a'"),
        ("Travel", 0, "fault 3: contains the letter 'a'"),
        ("a book", 0, "fault 19: an article is not the choice A"),
        ("It is a travel guide", 0, "fault 19"),
    ),
    *mcq("D", ["1", "2", "3", "4"], ("D", 1, "the letter"), ("4", 1, "the text"), ("D. 4", 1, "both"), ("3", 0, "no")),
    *mcq(
        "C", ["yes", "no", "\u662f"], ("\u662f", 1, "a choice in Chinese"), ("no", 0, "wrong"), ("C", 1, "its letter")
    ),
]

# ------------------------------------------------------------------------------------------------ mathematics (settled
# without math-verify; what needs it is in test_math.py)

MATH = [
    *math(
        "1/2",
        ("1/2", 1, "the same text"),
        ("0.5", 1, "the same number"),
        ("\\frac{1}{2}", 1, "the same in LaTeX"),
        ("$\\frac{1}{2}$", 1, "with delimiters"),
        ("\\boxed{\\frac{1}{2}}", 1, "boxed inside the answer"),
        ("\\boxed{0.5}.", 1, "boxed, with a full stop"),
    ),
    *math("12", ("12", 1, "right"), ("12.0", 1, "the same number"), ("twelve", 1, "in words"), ("13", 0, "wrong")),
    *math("1000", ("1,000", 1, "a thousands separator"), ("+1000", 1, "a sign"), ("-1000", 0, "the other sign")),
    *math("x", ("9" * 600, 0, "longer than an expression may be")),
]

# ------------------------------------------------------------------------------------------------ form

RED = {"answers": ["red"]}
FORM = [
    Case("vqa", RED, "<think>a</think><answer>red</answer>", 1, 1, "the form"),
    Case("vqa", RED, "  <think>a</think>\n\n<answer>red</answer>\n", 1, 1, "white space between the parts"),
    Case("vqa", RED, "<think>a\nb</think><answer>\nred\n</answer>", 1, 1, "line breaks inside"),
    Case("vqa", RED, "", 0, 0, "fault 1: an empty response; the authors' scorer crashes"),
    Case("vqa", RED, "   \n", 0, 0, "white space only"),
    Case("vqa", RED, "red", 0, 0, "fault 1: right but without tags; the authors' scorer crashes"),
    Case("vqa", RED, "<answer></answer>", 0, 0, "fault 2: an empty answer; full accuracy from the authors"),
    Case("vqa", RED, "<think>a</think><answer></answer>", 0, 0.5, "fault 2 with a thought"),
    Case("vqa", RED, "<think>a</think><answer>  </answer>", 0, 0.5, "fault 2 with white space"),
    Case("vqa", RED, "<answer>red</answer>", 1, 0.5, "no thought"),
    Case("vqa", RED, "<think></think><answer>red</answer>", 1, 0.5, "an empty thought"),
    Case("vqa", RED, "<think> \n </think><answer>red</answer>", 1, 0.5, "a blank thought"),
    Case("vqa", RED, "<think>a</think>red", 0, 0.5, "an answer without its tags"),
    Case("vqa", RED, "<think>a</think><answer>red", 0, 0.5, "broken off in the answer"),
    Case("vqa", RED, "<think>a<answer>red</answer>", 0, 0, "a thought that never ends holds no answer"),
    Case("vqa", RED, "<think>a", 0, 0, "broken off in the thought"),
    Case("vqa", RED, "<answer>red</answer><think>a</think>", 1, 0, "fault 11: the answer before the thought"),
    Case("vqa", RED, "<answer>blue</answer><think>a</think><answer>red</answer>", 1, 0, "the last answer counts"),
    Case("vqa", RED, "<think>a</think><answer>red</answer><answer>blue</answer>", 0, 0.5, "the last answer counts"),
    Case("vqa", RED, "<think>a</think><answer>blue</answer><answer>red</answer>", 1, 0.5, "the last answer counts"),
    Case(
        "vqa", RED, "<think>maybe <answer>red</answer></think><answer>blue</answer>", 0, 0, "a thought holds no answer"
    ),
    Case("vqa", RED, "<think>maybe <answer>blue</answer></think><answer>red</answer>", 1, 0, "fault 11: stray tags"),
    Case("vqa", RED, "<answer><think>a</think><answer>red</answer>", 1, 0, "fault 11: a stray first tag"),
    Case("vqa", RED, "<think>a</think><answer>blue<answer>red</answer>", 1, 0.5, "an answer that starts anew"),
    Case("vqa", RED, "<think>a</think><answer>red</answer></answer>", 1, 0, "a closing tag too many"),
    Case("vqa", RED, "<think>a</think></think><answer>red</answer>", 1, 0, "a closing tag too many"),
    Case("vqa", RED, "<think>a<think>b</think><answer>red</answer>", 1, 0, "a thought that starts twice"),
    Case("vqa", RED, "<think>a</think><think>b</think><answer>red</answer>", 1, 0.5, "two thoughts"),
    Case("vqa", RED, "Sure! <think>a</think><answer>red</answer>", 1, 0.5, "text before the thought"),
    Case("vqa", RED, "<think>a</think>So:<answer>red</answer>", 1, 0.5, "text between thought and answer"),
    Case("vqa", RED, "<think>a</think><answer>red</answer> I hope so", 1, 0.5, "text after the answer"),
    Case("vqa", RED, "<THINK>a</THINK><ANSWER>red</ANSWER>", 0, 0, "tags have one spelling"),
    Case("vqa", RED, "< think >a< / think ><answer>red</answer>", 1, 0, "a thought misspelt is text before the answer"),
    Case("vqa", RED, "a</think><answer>red</answer>", 1, 0, "a thought that was not opened"),
    Case("vqa", RED, "a</think><answer>red</answer>", 1, 1, "opened by the prompt", {"think_in_prompt": True}),
    Case("vqa", RED, "</think><answer>red</answer>", 1, 0.5, "opened by the prompt, blank", {"think_in_prompt": True}),
    Case("vqa", RED, "a", 0, 0, "opened by the prompt, never closed", {"think_in_prompt": True}),
    Case("vqa", RED, "red", 1, 0, "tags are optional", {"answer_tags": "optional"}),
    Case("vqa", RED, "<think>a</think>red", 1, 0.5, "tags are optional", {"answer_tags": "optional"}),
    Case("vqa", RED, "<think>a red", 0, 0, "optional, but a thought is no answer", {"answer_tags": "optional"}),
    Case(
        "vqa", RED, "<think>a</think>red<answer>blue", 0, 0.5, "optional, but broken off", {"answer_tags": "optional"}
    ),
    Case("vqa", RED, "blue <answer>red</answer>", 1, 0, "optional, and there", {"answer_tags": "optional"}),
    Case("vqa", RED, "<think>a</think><answer>red\x00</answer>", 1, 1, "a null byte"),
    Case("vqa", RED, "<think>\ud800</think><answer>\udfff</answer>", 0, 1, "lone surrogates"),
    Case("vqa", RED, "<think>a</think><answer>" + "red " * 600 + "</answer>", 0, 1, "far too long for an answer"),
    Case(
        "vqa", RED, "<think>a</think><answer>red</answer>", 1, 0, "cut off at the largest length", {"truncated": True}
    ),
    Case("math", {"answer": "4"}, "<think>a</think>So \\boxed{4}", 1, 1, "a box may stand for the answer's tags"),
    Case("math", {"answer": "4"}, "<think>\\boxed{4}</think>\\boxed{5}", 0, 1, "a box in the thought is no answer"),
    Case(
        "math", {"answer": "4"}, "<think>a</think>\\boxed{5} \\boxed{4}", 1, 0.5, "the last box counts, one is wanted"
    ),
    Case("math", {"answer": "4"}, "<think>a</think>\\boxed{4", 0, 0.5, "a box that never closes"),
    Case("math", {"answer": "4"}, "<think>a \\boxed{4}", 0, 0, "a thought that never ends holds no answer"),
]
