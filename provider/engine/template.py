"""Chat messages to prompt text, by the template in the GGUF file, in jinja2's sandbox."""

from typing import Any, cast

from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from provider.engine.errors import GenerationError
from provider.engine.llama import Model

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


class Prompts:
    """Renders and tokenizes the prompts of one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.template = model.metadata("tokenizer.chat_template") or PLAIN_TEMPLATE
        self._bos = model.special_text("tokenizer.ggml.bos_token_id")
        self._formatter = Jinja2ChatFormatter(
            template=self.template,
            eos_token=model.special_text("tokenizer.ggml.eos_token_id"),
            bos_token=self._bos,
        )

    def tokens(self, messages: list[dict[str, Any]]) -> list[int]:
        """The prompt's token ids. Raises GenerationError `bad_messages` if the template refuses the messages."""
        try:
            text = self._formatter(messages=cast("Any", messages)).prompt
        except Exception as error:
            raise GenerationError("bad_messages", f"the chat template refuses these messages: {error}") from error
        writes_bos = bool(self._bos) and text.startswith(self._bos)
        return self._model.tokenize(text, add_special=self._model.adds_bos and not writes_bos)
