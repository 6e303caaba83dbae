"""A random-weight llama of about 0.5 MB with a byte vocabulary: everything of a real model but the sense."""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

LAYERS = 2
HEADS = 2
HEAD_DIM = 32
WIDTH = HEADS * HEAD_DIM
FEED_FORWARD = 128
CONTEXT = 256
FIRST_BYTE_TOKEN = 3
VOCABULARY = FIRST_BYTE_TOKEN + 256 + 1
NAME = "tiny-random"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role') }}{% endif %}"
    "{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def write_tiny_gguf(path: Path, seed: int = 1, template: str = CHAT_TEMPLATE, context: int = CONTEXT) -> Path:
    """Writes the model; the same arguments give the same bytes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(NAME)
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_vocabulary(writer, template)
    _add_weights(writer, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def prompt_tokens(messages: list[dict[str, str]]) -> int:
    """How many tokens the byte vocabulary gives for rendered messages: one a byte, and one for the start."""
    text = "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant: "
    return len(text.encode()) + 1


def _add_vocabulary(writer: gguf.GGUFWriter, template: str) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template)


def _add_weights(writer: gguf.GGUFWriter, random: np.random.Generator) -> None:
    def matrix(*shape: int) -> npt.NDArray[np.float32]:
        return (random.standard_normal(shape) * 0.4).astype(np.float32)

    ones = np.ones(WIDTH, np.float32)
    output = matrix(VOCABULARY, WIDTH)
    output[:FIRST_BYTE_TOKEN] = 0  # so that an answer hardly ever ends by itself
    writer.add_tensor("token_embd.weight", matrix(VOCABULARY, WIDTH))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        writer.add_tensor(block + "attn_norm.weight", ones)
        writer.add_tensor(block + "ffn_norm.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}{name}.weight", matrix(WIDTH, WIDTH))
        writer.add_tensor(block + "ffn_gate.weight", matrix(FEED_FORWARD, WIDTH))
        writer.add_tensor(block + "ffn_up.weight", matrix(FEED_FORWARD, WIDTH))
        writer.add_tensor(block + "ffn_down.weight", matrix(WIDTH, FEED_FORWARD))
