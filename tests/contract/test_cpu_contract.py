"""Every point of verl that ``verl_mars.cpu`` hangs on. A failure names the change of verl and the file of ours."""

import inspect
from importlib.resources import files

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.plugin.platform import platform_manager
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry, get_platform, set_platform
from verl.utils import distributed, fsdp_utils
from verl.workers.config import FSDPEngineConfig
from verl.workers.rollout.base import BaseRollout, get_rollout_class
from verl.workers.rollout.replica import TokenOutput, get_rollout_replica_class
from verl_contract import expect, in_fresh_process

import verl_mars.cpu
from verl_mars.cpu import fixes
from verl_mars.cpu.platform import CpuDeviceModule, CpuPlatform
from verl_mars.hydra_callbacks import SelectCpu

FIXES = "verl_mars/cpu/fixes.py"


# ---------------------------------------------------------------- what an import does

STATE = """
import json, sys, verl
from verl.plugin.platform import get_platform
from verl.utils import distributed, fsdp_utils
from torch.distributed.fsdp import CPUOffloadPolicy
print(json.dumps({
    "platform": get_platform().device_name,
    "fixed": hasattr(distributed.initialize_global_process_group_ray, "__wrapped__"),
    "offload": fsdp_utils.CPUOffloadPolicy is not CPUOffloadPolicy,
    "rest": sorted(m for m in sys.modules if m.startswith("verl_mars.") and not m.startswith("verl_mars.cpu")),
}))
"""


def test_a_worker_of_the_overlay_is_on_the_cpu_and_needs_nothing_else_of_verl_mars():
    state = in_fresh_process(
        STATE, VERL_PLATFORM="cpu", VERL_USE_EXTERNAL_MODULES="verl_mars.cpu", VERL_USE_EXTERNAL_PLUGINS="none"
    )
    assert state == {"platform": "cpu", "fixed": True, "offload": True, "rest": ["verl_mars._compat"]}


def test_without_the_platform_nothing_is_changed():
    state = in_fresh_process(STATE, VERL_USE_EXTERNAL_MODULES="verl_mars.cpu", VERL_PLATFORM="nvidia")
    assert (state["platform"], state["fixed"], state["offload"]) == ("cuda", False, False)


def test_a_machine_without_an_accelerator_is_not_taken_for_the_cpu_platform(monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert "cpu" in PlatformRegistry.registered_names()
    assert platform_manager._detect_platform_name() != "cpu"
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert platform_manager._detect_platform_name() == "cpu"
    assert CpuPlatform().is_platform_available(use_smi_check=True)


def test_the_import_is_cheap_and_needs_no_verl():
    code = (
        "import json, sys, verl_mars.cpu\n"
        "print(json.dumps([m for m in ('verl', 'torch', 'ray', 'hydra', 'torchvision') if m in sys.modules]))"
    )
    assert in_fresh_process(code) == []


def test_torchvision_imports_beside_a_cpu_build_of_torch():
    code = (
        "from verl_mars._compat import define_missing_torchvision_ops as define\n"
        "define(); define()\n"
        "import torchvision, json; print(json.dumps(torchvision.__name__))"
    )
    assert in_fresh_process(code) == "torchvision"


def test_modules_of_the_user_are_kept(monkeypatch):
    monkeypatch.setattr(verl_mars.cpu, "_fixed", True)
    monkeypatch.setattr(platform_manager, "_current_platform", CpuPlatform())
    key = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES"
    for given, expected in (
        ("", "verl_mars.cpu"),
        ("mine,other", "verl_mars.cpu,mine,other"),
        ("mine,verl_mars.cpu", "verl_mars.cpu,mine"),
    ):
        monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", given)
        monkeypatch.setenv("VERL_PLATFORM", "")
        config = OmegaConf.create()
        OmegaConf.update(config, key, "verl_mars.cpu")
        OmegaConf.set_struct(config, True)
        SelectCpu().on_run_start(config)
        assert OmegaConf.select(config, key) == expected


# ---------------------------------------------------------------- the platform


def test_platform_is_complete_and_registered():
    expect(
        not CpuPlatform.__abstractmethods__,
        f"PlatformBase has new abstract methods {sorted(CpuPlatform.__abstractmethods__)}",
        "verl_mars/cpu/platform.py",
    )
    expect(PlatformRegistry.get("cpu") is CpuPlatform, "how platforms are registered", "verl_mars/cpu/__init__.py")


def test_platform_overrides_what_verl_declares():
    for name, member in vars(CpuPlatform).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            expect(hasattr(PlatformBase, name), f"PlatformBase has no {name}", "verl_mars/cpu/platform.py")


def test_platform_can_be_replaced(monkeypatch):
    monkeypatch.setattr(platform_manager, "_current_platform", None)
    set_platform(CpuPlatform())
    expect(get_platform().device_name == "cpu", "set_platform does not take effect", "verl_mars/hydra_callbacks.py")


def test_platform_answers():
    platform = CpuPlatform()
    assert platform.is_available() and platform.device_count() == 1
    assert torch.zeros(1, device=platform.current_device()).device.type == "cpu"
    assert platform.ray_resource_options(1) == {"num_gpus": 1}
    free, total = platform.device_module.mem_get_info()
    assert 0 < free <= total
    assert 0 < platform.device_module.memory_allocated() < total
    with platform.nvtx_range("x"):
        platform.synchronize()


def test_device_module_is_torch_cpu_for_a_comparison(monkeypatch):
    module = CpuDeviceModule()
    assert module == torch.cpu and torch.cpu == module and module != torch.cuda and hash(module) == hash(torch.cpu)
    assert module.stream is torch.cpu.stream
    from verl.utils.profiler.performance import log_gpu_memory_usage  # one of verl's comparisons

    monkeypatch.setattr(platform_manager, "_current_platform", CpuPlatform())
    log_gpu_memory_usage("here", logger=None)


# ---------------------------------------------------------------- the rollout engine


def test_engine_is_found_by_name():
    from verl_mars.cpu.adapter import TransformersAdapter
    from verl_mars.cpu.replica import TransformersReplica

    expect(
        get_rollout_class("transformers", "async") is TransformersAdapter,
        "how rollout classes are registered (_ROLLOUT_REGISTRY)",
        "verl_mars/cpu/__init__.py",
    )
    expect(
        get_rollout_replica_class("transformers") is TransformersReplica,
        "how replicas are registered (RolloutReplicaRegistry)",
        "verl_mars/cpu/__init__.py",
    )
    for ours in (TransformersAdapter, TransformersReplica):
        expect(
            not ours.__abstractmethods__,
            f"{ours.__bases__[0].__name__} has new abstract methods",
            inspect.getfile(ours),
        )


def test_weights_arrive_as_names_and_tensors():
    from verl.workers.engine_workers import ActorRolloutRefWorker

    parameters = list(inspect.signature(BaseRollout.update_weights).parameters)
    expect(parameters == ["self", "weights", "wire_format", "kwargs"], "update_weights", "verl_mars/cpu/adapter.py")
    source = inspect.getsource(ActorRolloutRefWorker.update_weights)
    expect(
        "per_tensor_param, peft_config=peft_config, base_sync_done=True, global_steps=global_steps" in source,
        "what the trainer passes to update_weights",
        "verl_mars/cpu/adapter.py",
    )


def test_answers_have_verls_fields():
    expect(
        {"token_ids", "log_probs", "stop_reason", "extra_fields"} <= set(TokenOutput.model_fields),
        "the fields of TokenOutput",
        "verl_mars/cpu/server.py",
    )


def test_the_client_calls_generate_as_we_offer_it():
    from verl.workers.rollout.llm_server import LLMServerClient

    from verl_mars.cpu.server import TransformersServer

    source = inspect.getsource(LLMServerClient.generate)
    ours = set(inspect.signature(TransformersServer.generate).parameters)
    for name in ("request_id", "prompt_ids", "sampling_params", "image_data", "video_data"):
        expect(f"{name}=" in source and name in ours, f"the client's argument {name}", "verl_mars/cpu/server.py")
    expect('rollout.name == "vllm"' in source, "priorities are passed to other engines too", "verl_mars/cpu/server.py")


@pytest.mark.parametrize("key", ["tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size"])
def test_a_split_model_is_refused(key):
    from verl_mars.cpu.replica import check_parallel_sizes

    sizes = {"tensor_model_parallel_size": 1, "data_parallel_size": 1, "pipeline_model_parallel_size": 1, key: 2}
    with pytest.raises(ValueError, match=f"rollout.{key} = 2: .* allowed is 1"):
        check_parallel_sizes(OmegaConf.create(sizes))


# ---------------------------------------------------------------- the fixes are still needed


def test_verl_still_names_gloo_twice(monkeypatch, tmp_path):
    source = inspect.getsource(distributed.initialize_global_process_group_ray)
    expect('f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"' in source, "the backend of the process group", FIXES)
    with pytest.raises(ValueError, match="[Dd]uplicate"):
        torch.distributed.init_process_group(
            "cpu:gloo,cpu:gloo", init_method=f"file://{tmp_path}/a", rank=0, world_size=1
        )


def test_the_process_group_is_initialised_with_gloo(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **options: asked.append(options["backend"]))
    module = type(
        "module", (), {"initialize_global_process_group_ray": distributed.initialize_global_process_group_ray}
    )
    fixes.name_gloo_once(module)
    module.initialize_global_process_group_ray()
    module.initialize_global_process_group_ray(backend="cpu:gloo,cuda:nccl")
    assert asked == ["cpu:gloo", "cpu:gloo,cuda:nccl"]


def test_verl_still_pins_offloaded_parameters():
    from verl.workers.engine.fsdp import transformer_impl

    source = inspect.getsource(transformer_impl)
    expect("CPUOffloadPolicy(pin_memory=True)" in source, "offloaded parameters are not always pinned", FIXES)
    expect(hasattr(fsdp_utils, "CPUOffloadPolicy"), "fsdp_utils has no CPUOffloadPolicy", FIXES)
    module = type("module", (), {"CPUOffloadPolicy": torch.distributed.fsdp.CPUOffloadPolicy})
    fixes.offload_unpinned(module)
    assert module.CPUOffloadPolicy(pin_memory=True).pin_memory is False


def test_fsdp2_is_still_listed_for_accelerators_only(monkeypatch):
    from verl.workers.engine import EngineRegistry

    monkeypatch.setattr(platform_manager, "_current_platform", CpuPlatform())
    monkeypatch.delenv("VERL_ENGINE_DEVICE", raising=False)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        found = EngineRegistry.get_engine_cls("language_model", "fsdp2")
        expect(False, f"EngineRegistry knows {found} on a CPU", "recipes/hardware/cpu.yaml (VERL_ENGINE_DEVICE can go)")
    monkeypatch.setenv("VERL_ENGINE_DEVICE", "cuda")
    assert "FSDP" in EngineRegistry.get_engine_cls("language_model", "fsdp2").__name__


# ---------------------------------------------------------------- the overlay

NEW_KEYS = {
    # Ours, and those of ray.init, which verl passes on.
    "hydra",
    "ray_kwargs.ray_init.num_gpus",
    "ray_kwargs.ray_init.include_dashboard",
    "ray_kwargs.ray_init.runtime_env.env_vars",
    # Merged into the configuration of the Hugging Face model.
    "actor_rollout_ref.model.override_config.attn_implementation",
    # A field of verl's dataclass that its YAML leaves out.
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
}


def leaves(config, prefix=""):
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in NEW_KEYS:
            yield from leaves(value, f"{name}.")
        else:
            yield name


def test_the_overlay_sets_keys_that_verl_has():
    """Composition adds unknown keys without a word, so a key that verl renames would silently lose its effect."""
    overlay = yaml.safe_load((files("verl_mars.recipes") / "hardware" / "cpu.yaml").read_text())
    with initialize_config_module("verl.trainer.config", version_base=None):
        known = set(leaves(OmegaConf.to_container(compose("ppo_trainer"))))
    for name in leaves(overlay):
        expect(name in known | NEW_KEYS, f"no configuration key {name}", "recipes/hardware/cpu.yaml")
    fields = inspect.signature(FSDPEngineConfig).parameters
    expect("mixed_precision" in fields, "FSDPEngineConfig has no mixed_precision", "recipes/hardware/cpu.yaml")


def test_environment_variables_of_the_overlay_are_plain_texts():
    """verl hands them to Ray unresolved, and Ray takes texts only."""
    overlay = yaml.safe_load((files("verl_mars.recipes") / "hardware" / "cpu.yaml").read_text())
    variables = overlay["ray_kwargs"]["ray_init"]["runtime_env"]["env_vars"]
    assert variables["VERL_PLATFORM"] == "cpu"
    assert all(isinstance(value, str) and "${" not in value for value in variables.values())
