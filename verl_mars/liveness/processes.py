"""Liveness checks. If a worker process dies, verl blocks forever on its result; this raises instead."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
from ray.exceptions import ActorDiedError, RayError
from verl.trainer.ppo.v1 import PPOTrainer

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from verl.experimental.agent_loop import AgentLoopManager
    from verl.workers.rollout.llm_server import LLMServerManager

logger = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
_LAST_WORDS_SECONDS = 5.0
"""Delay of an error, to find out whether a dead process caused it."""
_LONGEST_REASON = 320


class ProcessDied(RuntimeError):
    """A process died that the run needs."""


@dataclass(frozen=True)
class Crew:
    """Processes with the same task."""

    name: str
    """Name of one of them, for messages."""
    actors: "Sequence[ActorHandle]"
    loses: str
    """What is lost if one dies."""
    can_shrink: bool = False
    """The others can take over."""


class Watch:
    """Pings each process without waiting for the answer.

    A busy process answers late, which is not an error; Ray answers for a dead one.
    """

    def __init__(self, crews: Sequence[Crew]) -> None:
        self._crews = crews
        self._asked: dict[ActorHandle, ray.ObjectRef] = {}
        """The ping that each living process has not answered yet."""
        self._dead: dict[ActorHandle, str] = {}
        self._last = 0.0
        self._ask()

    def check(self) -> None:
        """Return if all processes that the run needs are alive. Looks every two seconds, however often it is called.

        Raises:
            ProcessDied: which process died, why, and what is lost with it.
        """
        if time.monotonic() - self._last >= EVERY_SECONDS:
            self._look()
            self._raise()

    @contextmanager
    def explaining(self, advice: Callable[[], str]) -> Iterator[None]:
        """Replace an error inside the block that a dead process caused. ``advice()`` ends the message.

        Raises:
            ProcessDied: which process died, why, what is lost, and the advice.
        """
        try:
            yield
        except Exception as error:  # a dead process can surface as any error of verl's
            try:
                self._look()  # answers of before
                self._look(_LAST_WORDS_SECONDS)
                self._raise()
            except ProcessDied as death:
                raise ProcessDied(f"{death} {advice()}") from error
            raise

    def _ask(self) -> None:
        for crew in self._crews:
            for actor in crew.actors:
                if actor not in self._dead and actor not in self._asked:
                    self._asked[actor] = actor.__ray_ready__.remote()

    def _look(self, seconds: float = 0.0) -> None:
        """Collect the answers that arrive within ``seconds``, and ping those that answered again."""
        answers = list(self._asked.values())
        answered = set(ray.wait(answers, num_returns=len(answers), timeout=seconds)[0]) if answers else set()
        for actor, answer in list(self._asked.items()):
            if answer in answered:
                del self._asked[actor]
                try:
                    ray.get(answer)
                except ActorDiedError as error:
                    self._bury(actor, error)
                except RayError as error:  # the network, for a moment: it is pinged again
                    logger.warning("%s does not answer: %s", actor, error)
        self._ask()
        self._last = time.monotonic()

    def _bury(self, actor: "ActorHandle", error: ActorDiedError) -> None:
        self._dead[actor] = _reason(error)
        for crew in self._crews:
            if actor in crew.actors and crew.can_shrink:
                number = list(crew.actors).index(actor)
                left = sum(other not in self._dead for other in crew.actors)
                logger.error("%s %d died, %d are left: %s", crew.name, number, left, self._dead[actor])

    def _raise(self) -> None:
        for crew in self._crews:
            dead = [number for number, actor in enumerate(crew.actors) if actor in self._dead]
            if dead and (not crew.can_shrink or len(dead) == len(crew.actors)):
                which = f"{crew.name} {', '.join(map(str, dead))} of {len(crew.actors)}"
                why = self._dead[crew.actors[dead[-1]]]
                raise ProcessDied(f"{which} died, and with it {crew.loses}. {why}")


def crews(
    agent_loop_manager: "AgentLoopManager",
    server_managers: "Sequence[LLMServerManager]",
    reward_workers: "Sequence[ActorHandle]",
) -> list[Crew]:
    """The processes that roll out and score for a trainer of verl."""
    replicas = [replica for manager in server_managers for replica in manager.get_replicas()]
    servers = [server for replica in replicas for server in replica.servers]
    return [
        Crew("agent-loop worker", agent_loop_manager.agent_loop_workers, "the prompts that it was rolling out"),
        Crew("rollout server", servers, "all that it was sampling"),
        Crew("reward worker", reward_workers, "all scoring", can_shrink=True),
    ]


class EndsWithDeadProcesses(PPOTrainer):
    """Ends a run with an explanation if a process dies that it needs."""

    def how_to_continue(self) -> str:
        """Advice at the end of the explanation."""
        return ""

    def fit(self, agent_loop_manager: "AgentLoopManager") -> None:
        """Run verl's loop; if a required process dies, raise with an explanation instead of hanging."""
        managers = [self.llm_server_manager, getattr(self, "standalone_server_manager", None)]
        reward_workers = self.get_reward_handles() or []
        watch = Watch(crews(agent_loop_manager, [manager for manager in managers if manager], reward_workers))
        self.replay_buffer.check_processes = watch.check
        with watch.explaining(self.how_to_continue):
            super().fit(agent_loop_manager)


def _reason(error: ActorDiedError) -> str:
    """Ray's report in one line: what, where and why."""
    lines = [line.strip() for line in str(error).splitlines()]
    named = [line for line in lines if line.startswith(("class_name:", "pid:", "ip:"))]
    last = next((line for line in reversed(lines) if line), "")
    if len(last) > _LONGEST_REASON:
        last = last[:_LONGEST_REASON] + " ..."
    return f"({', '.join(named)}) {last}" if named else last
