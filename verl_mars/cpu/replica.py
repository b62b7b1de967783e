"""A replica of the rollout engine ``transformers``: one server, one process, one copy of the model."""

import ray
from verl.plugin.platform import get_platform
from verl.workers.config import RolloutConfig
from verl.workers.rollout.replica import RolloutReplica


def server_name(replica_rank: int, role: str = "", suffix: str = "") -> str:
    """Ray's name of a server."""
    return f"transformers_server_{role}{replica_rank}{suffix}"


def check_parallel_sizes(config: RolloutConfig) -> None:
    """Refuse to split the model.

    Raises:
        ValueError: naming the first key that would split it.
    """
    for key in ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size"):
        if getattr(config, key) != 1:
            raise ValueError(
                f"actor_rollout_ref.rollout.{key} = {getattr(config, key)}: the rollout engine transformers has the "
                "whole model in each replica; allowed is 1"
            )


class TransformersReplica(RolloutReplica):
    """Starts the server on the node of its trainer rank and, if there is one, on the device of that rank."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        check_parallel_sizes(self.config)

    async def launch_servers(self) -> None:
        from verl_mars.cpu.server import TransformersServer

        node, devices = await self.workers[0].__ray_call__.remote(_place_of_worker)
        platform = get_platform()
        # Ray hides every device from an actor that asks for none of them.
        environment = {**{name: "1" for name in platform.ray_noset_envvars()}, **platform.rollout_env_vars()}
        if platform.device_name != "cpu":
            environment[platform.visible_devices_envvar()] = ",".join(devices)
        role = "reward_" if self.is_reward_model else "teacher_" if self.is_teacher_model else ""
        server = (
            ray.remote(TransformersServer)
            .options(
                name=server_name(self.replica_rank, role, self.name_suffix),
                num_cpus=0,
                max_concurrency=self.max_concurrency,
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": environment},
            )
            .remote(self.config, self.model_config, self.replica_rank)
        )
        self.servers = [server]
        self._server_handle = server
        self._server_address = await server.get_server_address.remote()


def _place_of_worker(worker: object) -> tuple[str, list[str]]:
    """Ray's node and the devices of a trainer rank. Runs in that rank."""
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_accelerator_ids()[get_platform().ray_resource_name()]
