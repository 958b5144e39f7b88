"""Activation checkpointing and the compiled head: the same losses and gradients, fewer tensors
kept, the same checkpoints.
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from hyperclip.adapters import adapters, merge
from hyperclip.config.keys import load_config
from hyperclip.data.class_lists import train_vocabulary
from hyperclip.vocabulary import Vocabulary
from torch.nn.parallel import DistributedDataParallel

from reference.training import random_image
from tests.helpers.asking import ask_all, scores_of

CONFIG = "configs/quickstart/hyperclip.yaml"
CLASSES = 10
SMALL = ["MODEL.SEM_SEG_HEAD.NUM_LAYERS", "1"]
PARTS = ["text", "image", "head"]


def build(*overrides):
    """A model of the quickstart config, always with the same weights, adapters away from the
    identity.
    """
    cfg = load_config(
        CONFIG,
        ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.SAMPLED_CLASSES", "0", *SMALL, *overrides],
    )
    torch.manual_seed(0)
    model = build_model(cfg).train()
    whole = train_vocabulary(cfg)
    model.train_vocabulary = Vocabulary(whole.classes[:CLASSES], whole.name)
    with torch.no_grad():
        for _, adapter in adapters(model.clip):
            for p in adapter.parameters():
                p += 0.02 * torch.randn(p.shape)
    return model


def pictures(model, count=1, size=96):
    return [
        dict(zip(("image", "sem_seg"), random_image(model, size, seed), strict=True))
        for seed in range(count)
    ]


def step(model, batch, precision="float32"):
    """The loss and the gradient of every parameter that has one."""
    model.zero_grad()
    with torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32"):
        (loss,) = model(batch).values()
    loss.backward()
    return loss.item(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def assert_equal_steps(got, want):
    assert got[0] == pytest.approx(want[0], rel=1e-6) and got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        assert (got[1][name] - gradient).abs().max() <= 1e-6 * max(
            gradient.abs().max().item(), 1e-3
        ), name


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def plain(request):
    """A precision, a batch, and the step without any option."""
    model = build()
    batch = pictures(model)
    return request.param, batch, step(model, batch, request.param)


@pytest.mark.parametrize("parts", [["text"], ["image"], ["head"], PARTS], ids="+".join)
def test_checkpointing_changes_nothing(plain, parts):
    precision, batch, want = plain
    assert len(want[1]) > 50
    assert_equal_steps(
        step(build("MODEL.CHECKPOINT_ACTIVATIONS", str(parts)), batch, precision), want
    )


@pytest.mark.parametrize("parts", ["[]", str(PARTS)], ids=["compiled", "all"])
def test_a_compiled_head_changes_nothing(plain, parts):
    precision, batch, want = plain
    model = build("MODEL.COMPILE_HEAD", "eager", "MODEL.CHECKPOINT_ACTIVATIONS", parts)
    assert_equal_steps(step(model, batch, precision), want)


@pytest.mark.parametrize(
    "mode", ["hyperbolic+rotation", "relations", "lora", "attention", "full", "none"]
)
def test_checkpointing_with_every_way_of_finetuning(mode):
    keys = ["MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", mode]
    model = build(*keys)
    batch = pictures(model)
    assert_equal_steps(
        step(build(*keys, "MODEL.CHECKPOINT_ACTIVATIONS", str(PARTS)), batch), step(model, batch)
    )


def kept_bytes(model, batch):
    """Bytes that one forward pass keeps for the backward pass, the parameters' apart; of a
    checkpoint its arguments.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        # the tensor, so that no address comes twice
        storages.setdefault(storage.data_ptr(), (storage.nbytes(), tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch)
    return sum(size for address, (size, _) in storages.items() if address not in own)


def test_checkpointing_keeps_less():
    model = build()
    batch = pictures(model)
    whole = kept_bytes(model, batch)
    kept = {
        part: kept_bytes(build("MODEL.CHECKPOINT_ACTIVATIONS", f"['{part}']"), batch)
        for part in PARTS
    }
    every = kept_bytes(build("MODEL.CHECKPOINT_ACTIVATIONS", str(PARTS)), batch)
    assert all(size < whole for size in kept.values()) and every < 0.3 * whole


def evaluations(model, batch, train):
    """How often each adapter map is evaluated in a step."""
    counts = dict.fromkeys((name for name, _ in adapters(model)), 0)

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    handles = [adapter.register_forward_pre_hook(count(name)) for name, adapter in adapters(model)]
    if train:
        step(model, batch)
    else:
        with torch.no_grad():
            ask_all(model, batch, model.train_vocabulary)
    for handle in handles:
        handle.remove()
    return counts


def test_adapter_maps_are_evaluated_once_more():
    model = build("MODEL.CHECKPOINT_ACTIVATIONS", "['image']")
    batch = pictures(model)
    for name, count in evaluations(model, batch, train=True).items():
        assert count == (2 if ".visual." in name else 1), name
    assert set(evaluations(model, batch, train=False).values()) == {1}


def test_nothing_is_checkpointed_in_evaluation(monkeypatch):
    model = build("MODEL.CHECKPOINT_ACTIVATIONS", str(PARTS))
    batch = pictures(model)
    step(model, batch)
    model.eval()
    monkeypatch.setattr(
        "hyperclip.runtime.recompute.checkpoint", lambda *_, **__: pytest.fail("checkpointed")
    )
    ask_all(model, batch, model.train_vocabulary)
    (embeddings,) = model.text._embeddings.values()
    ask_all(model, batch, model.train_vocabulary)
    assert len(model.text._embeddings) == 1 and not embeddings.requires_grad  # still cached
    with torch.no_grad():
        (before,) = model.train()(batch).values()
    merge(model)
    with torch.no_grad():
        (after,) = model(batch).values()
    assert after.item() == pytest.approx(before.item(), rel=1e-5)
    model.eval()
    # with gradients, but not in training
    features = model.encode_views(torch.randn(1, 3, *model.resolution))
    assert model.sem_seg_head(features, embeddings).requires_grad


def test_frozen_towers_with_a_cached_text_embedding():
    keys = ["MODEL.SEM_SEG_HEAD.CLIP_FINETUNE", "none", "MODEL.CHECKPOINT_ACTIVATIONS", str(PARTS)]
    model = build(*keys)
    batch = pictures(model)
    first, second = step(model, batch), step(model, batch)
    assert_equal_steps(first, second)
    assert len(model.text._embeddings) == 1


def test_distributed_and_in_micro_batches(tmp_path):
    model = build("MODEL.CHECKPOINT_ACTIVATIONS", str(PARTS))
    batch = pictures(model, 2)
    want = step(model, batch)[1]
    model.zero_grad()
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(model)
        with wrapped.no_sync():
            (0.5 * wrapped(batch[:1])["loss_sem_seg"]).backward()
        (0.5 * wrapped(batch[1:])["loss_sem_seg"]).backward()
        for name, p in model.named_parameters():
            if name in want:
                assert (p.grad - want[name]).abs().max() <= 1e-3 * max(
                    want[name].abs().max().item(), 1e-6
                ), name
    finally:
        dist.destroy_process_group()


def test_a_compiled_head_takes_every_number_of_classes_and_keeps_its_keys():
    model, compiled = build(), build("MODEL.COMPILE_HEAD", "eager")
    assert compiled.sem_seg_head._compiled_call_impl is not None
    assert list(compiled.state_dict()) == list(model.state_dict())
    for classes, size in ((CLASSES, 96), (1, 60)):
        for own in (model, compiled):
            own.sampled_classes = classes
            torch.manual_seed(1)
            batch = pictures(own, size=size)
            batch[0]["sem_seg"] %= classes
            result = step(own, batch)
            want = result if own is model else want  # noqa: F821
        assert_equal_steps(result, want)
    compiled.load_state_dict(model.state_dict())


@torch.no_grad()
def test_inference_is_compiled_too():
    model, compiled = build().eval(), build("MODEL.COMPILE_HEAD", "eager").eval()
    batch = pictures(model)
    torch._dynamo.reset()  # graphs of other tests would do
    torch._dynamo.utils.counters.clear()
    for classes in (CLASSES, 3):
        words = Vocabulary(model.train_vocabulary.classes[:classes], str(classes))
        want, got = (scores_of(own, batch[0], words) for own in (model, compiled))
        assert want.shape[0] == classes
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    head = compiled.sem_seg_head
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2 * len(head.layers) + 1
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("parts", ["['text','vision']", "['all']", "[3]"])
def test_unknown_parts(parts):
    with pytest.raises(
        ValueError, match=r"MODEL.CHECKPOINT_ACTIVATIONS .*: got .*, expected a list of some of"
    ):
        build("MODEL.CHECKPOINT_ACTIVATIONS", parts)


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="MODEL.COMPILE_HEAD: got 'fast', expected .*'inductor'"):
        build("MODEL.COMPILE_HEAD", "fast")
