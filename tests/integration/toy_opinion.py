"""The toy model's own opinion of a response, by plain forward passes: none of verl's code, none of the views'."""

import numpy as np
import torch

SCENES = 16  # of the session's training file


class ToyOpinion:
    """Log-probs of all words before each token of a response, (R, V), of a saved toy model."""

    def __init__(self, folder):
        from verl_mars.toy import forward, world
        from verl_mars.toy.evaluate import load

        self.forward, (self.model, _) = forward, load(folder)
        self.image = self.model.config.image_token_id
        images = np.asarray(world.make_scenes(SCENES, [0, SCENES]).images)
        self.pixels = [forward.patches(pair) for pair in images]

    def fused(self, row):
        """With the row's raw images."""
        response = torch.tensor([row["responses"]])
        prompts = self.forward.batch_prompts([row["prompts"]], self.image, 0, response.shape[1])
        with torch.no_grad():
            visual = self.forward.see(self.model, self.pixels[row["index"]])[None]
            words = self.forward.embed(self.model, prompts, visual, response[:, :-1])
        width = words.shape[1]
        return self._words(row, words, prompts.mask[:, :width], prompts.positions[:, :, :width])

    def blind(self, row):
        """With attention to the visual tokens masked."""
        ids = torch.tensor([*row["prompts"], *row["responses"]])
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        seen &= (ids != self.image)[None] | torch.eye(len(ids), dtype=torch.bool)
        places = self.forward.mrope_positions(row["prompts"], self.image, len(row["responses"]))
        with torch.no_grad():
            words = self.model.model.language_model.embed_tokens(ids[None])
        return self._words(row, words[:, :-1], seen[None, None, :-1, :-1], places[:, None, :-1])

    @torch.no_grad()
    def _words(self, row, embedded, seen, places):
        hidden = self.model.model.language_model(
            inputs_embeds=embedded, attention_mask=seen, position_ids=places, use_cache=False
        ).last_hidden_state[0, -len(row["responses"]) :]
        return torch.log_softmax(self.model.lm_head(hidden).double(), dim=-1)


def said(words, row):
    """(R,) of what the response says."""
    return words.gather(1, torch.tensor(row["responses"])[:, None])[:, 0]
