"""Prompts to tokens: messages by the chat template in the GGUF file (in jinja2's sandbox), texts, tokens."""

from typing import Any, cast

from jinja2 import TemplateError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from provider.backend import Prompt
from provider.engine.errors import EngineStartError, GenerationError
from provider.engine.llama import Model

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_PROBE_TOOL = {
    "type": "function",
    "function": {"name": "probe_tool", "description": "", "parameters": {"type": "object", "properties": {}}},
}


class Prompts:
    """Renders and tokenizes the prompts of one model."""

    def __init__(self, model: Model) -> None:
        """Raises EngineStartError `model_damaged` for a template that is none."""
        self._model = model
        self.template = model.metadata("tokenizer.chat_template") or PLAIN_TEMPLATE
        self._bos = model.special_text("tokenizer.ggml.bos_token_id")
        try:
            self._formatter = Jinja2ChatFormatter(
                template=self.template,
                eos_token=model.special_text("tokenizer.ggml.eos_token_id"),
                bos_token=self._bos,
            )
        except (TemplateError, RecursionError, SyntaxError, OverflowError, MemoryError) as error:
            raise EngineStartError("model_damaged", f"the model's chat template cannot be used: {error}") from error
        self.has_tools = self._writes_tools()

    def tokens(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids, at least one.

        Raises GenerationError `bad_messages` if the template refuses the messages, `bad_request` for no prompt.
        """
        if [prompt.messages, prompt.text, prompt.tokens].count(None) != 2:
            raise GenerationError("bad_request", "a prompt is either messages, or text, or tokens")
        if prompt.tokens is not None:
            tokens = self._checked(prompt.tokens)
        elif prompt.text is not None:
            tokens = self._model.tokenize(prompt.text, add_special=self._model.adds_bos)
        else:
            tokens = self._rendered(prompt.messages or [], prompt.tools)
        if not tokens:
            raise GenerationError("bad_request", "the prompt has no tokens")
        return tokens

    def text(self, prompt: Prompt) -> str:
        """The prompt as another server takes it: without the start token that such a server adds itself.

        Raises GenerationError `bad_messages`, and `bad_request` for token ids.
        """
        if prompt.text is not None:
            return prompt.text
        if prompt.messages is None:
            raise GenerationError("bad_request", "token ids are no text")
        text = self._written(prompt.messages, prompt.tools)
        return text.removeprefix(self._bos) if self._model.adds_bos else text

    def _checked(self, tokens: list[int]) -> list[int]:
        for token in tokens:
            if type(token) is not int or not 0 <= token < self._model.vocabulary_size:
                raise GenerationError(
                    "bad_request", f"{token!r} is no token; they go from 0 to {self._model.vocabulary_size - 1}"
                )
        return tokens

    def _rendered(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> list[int]:
        text = self._written(messages, tools)
        writes_bos = bool(self._bos) and text.startswith(self._bos)
        return self._model.tokenize(text, add_special=self._model.adds_bos and not writes_bos)

    def _written(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        try:
            return self._render(messages, tools)
        except Exception as error:
            raise GenerationError("bad_messages", f"the chat template refuses these messages: {error}") from error

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        return self._formatter(messages=cast("Any", messages), tools=cast("Any", tools)).prompt

    def _writes_tools(self) -> bool:
        """Whether a tool's name comes out of the template."""
        try:
            return "probe_tool" in self._render([{"role": "user", "content": "x"}], [_PROBE_TOOL])
        except Exception:  # noqa: BLE001 - a template may raise anything
            return False
