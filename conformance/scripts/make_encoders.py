"""Small attention encoders with random weights in Hugging Face folders, with the outputs of `transformers` for some rows.

Usage: python make_encoders.py (from this folder; versions in ../requirements.txt). Writes ../encoders.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

OUT = Path(__file__).resolve().parent.parent / "encoders"
# More than a page of 64 positions, exactly one, less than one, a single position.
LENGTHS = [70, 64, 33, 1]
POSITIONS = 70


def settle(model):
    """Weights that let every part show: those of a new network are small, its biases 0 and its norms 1."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.uniform_(-0.5, 0.5)
                if "norm" in name.lower() and name.endswith("weight"):
                    weight.add_(1.0)
            else:
                weight.normal_(0.0, 1.2 / weight.shape[-1] ** 0.5)
    return model.eval()


def save(name, model, arrays):
    folder = OUT / name
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    for key, value in arrays.items():
        np.save(folder / f"{key}.npy", value.detach().numpy() if isinstance(value, torch.Tensor) else value)


def text(vocab, first=0):
    ids = torch.randint(first, vocab, (len(LENGTHS), POSITIONS))
    mask = torch.arange(POSITIONS)[None, :] < torch.tensor(LENGTHS)[:, None]
    return ids, mask


def inputs(ids, mask, types=None):
    arrays = {"ids": ids.numpy().astype(np.int32), "length": mask.sum(1).numpy().astype(np.int32)}
    if types is not None:
        arrays["types"] = types.numpy().astype(np.int32)
    return arrays


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    torch.manual_seed(11)
    # A width that is no multiple of the 32 values of a block, heads of 12.
    sizes = dict(hidden_size=36, num_attention_heads=3, num_hidden_layers=2, intermediate_size=40, vocab_size=60)

    config = BertConfig(**sizes, max_position_embeddings=80)
    model = settle(BertModel(config))
    ids, mask = text(60)
    types = torch.randint(0, 2, ids.shape)
    found = model(input_ids=ids, attention_mask=mask.long(), token_type_ids=types)
    hidden = found.last_hidden_state * mask[..., None]
    mean = hidden.sum(1) / mask.sum(1, keepdim=True)
    save("bert", model, inputs(ids, mask, types) | {"hidden": hidden, "mean": mean, "pooled": found.pooler_output})

    config = BertConfig(**sizes, max_position_embeddings=80, hidden_act="gelu_new", id2label={0: "no", 1: "yes", 2: "maybe"})
    model = settle(BertForSequenceClassification(config))
    found = model(input_ids=ids, attention_mask=mask.long())
    save("bert-classes", model, inputs(ids, mask) | {"logits": found.logits})

    model = settle(BertForTokenClassification(BertConfig(**sizes, max_position_embeddings=80, num_labels=4)))
    found = model(input_ids=ids, attention_mask=mask.long())
    save("bert-tokens", model, inputs(ids, mask) | {"logits": found.logits * mask[..., None]})

    # Its padding is id 1, which no text holds.
    model = settle(RobertaForSequenceClassification(RobertaConfig(**sizes, max_position_embeddings=82, num_labels=3)))
    roberta, mask = text(60, first=2)
    roberta = torch.where(mask, roberta, 1)
    found = model(input_ids=roberta, attention_mask=mask.long())
    save("roberta-classes", model, inputs(roberta, mask) | {"logits": found.logits})

    config = DistilBertConfig(dim=36, n_heads=3, n_layers=2, hidden_dim=40, vocab_size=60, max_position_embeddings=80, num_labels=3)
    model = settle(DistilBertForSequenceClassification(config))
    found = model(input_ids=ids, attention_mask=mask.long())
    save("distilbert-classes", model, inputs(ids, mask) | {"logits": found.logits})

    sizes = dict(hidden_size=36, num_attention_heads=3, num_hidden_layers=2, intermediate_size=40)
    pixels = torch.randn(3, 3, 24, 24)
    model = settle(ViTModel(ViTConfig(**sizes, image_size=24, patch_size=8)))
    found = model(pixel_values=pixels)
    save("vit", model, {"pixels": pixels, "hidden": found.last_hidden_state, "pooled": found.pooler_output})

    model = settle(ViTForImageClassification(ViTConfig(**sizes, image_size=24, patch_size=4, qkv_bias=False, num_labels=5)))
    save("vit-classes", model, {"pixels": pixels, "logits": model(pixel_values=pixels).logits})


main()
