"""A fault on purpose (``VERL_USE_EXTERNAL_MODULES=stale_weights``): every weight update sends the first version.

The rollout engine then samples from the policy of step 0 however long the actor trains. Tests of the weight transfer
load it to show that they notice.
"""

import wrapt


def _send_the_first_version(module):
    engine = module.FSDPEngine
    fresh = engine.get_per_tensor_param

    def stale(self, *args, **kwargs):
        if not hasattr(self, "first_version"):
            weights, peft_config = fresh(self, *args, **kwargs)
            self.first_version = [(name, weight.detach().clone()) for name, weight in weights], peft_config
        weights, peft_config = self.first_version
        return iter(weights), peft_config

    engine.get_per_tensor_param = stale


wrapt.register_post_import_hook(_send_the_first_version, "verl.workers.engine.fsdp.transformer_impl")
