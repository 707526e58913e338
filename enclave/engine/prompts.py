"""From messages to prompt tokens with a model's own tokenizer and chat template: the same for every engine."""

from collections.abc import Sequence
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from enclave.engine.base import AskError, Message

ROLES = ("system", "user", "assistant")


class Prompts:
    """Renders conversations of one model. Text can never become a role: control tokens in it are refused.

    A fast tokenizer turns the characters `<|assistant|>` inside a user's message into the real role token, and a chat
    template copies a role name as it is, so both are checked before anything is rendered.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        special = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        self._control = sorted(special | set(self.tokenizer.all_special_tokens))

    def render(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Prompt tokens up to and including the cue for the answer."""
        if not messages:
            raise AskError("messages is empty: send at least one message", param="messages")
        if any(message["role"] not in ROLES for message in messages):
            raise AskError(f"the role of a message must be one of {', '.join(ROLES)}", param="messages")
        if any(token in message["content"] for message in messages for token in self._control):
            raise AskError("a message contains a control token of this model: remove it", param="messages")
        chat = [{"role": message["role"], "content": message["content"]} for message in messages]
        try:
            rendered = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        except TemplateError as error:
            raise AskError(f"this model's chat template refuses these messages: {error}", param="messages") from error
        return tuple(rendered["input_ids"])

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Tokens of a bare text, control tokens included: whoever sends a bare prompt writes all of it."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
