"""Fills in a form of the page as a person does: each field is found by its title, and nothing else is touched."""

from collections.abc import Mapping
from typing import Any, Final

from playwright.sync_api import Locator, Page

Schema = Mapping[str, Any]
_DEFINED: Final = "#/definitions/"


class Form:
    """The form that the page makes of a flow's parameters; ``schema`` says which fields there are, and their titles."""

    def __init__(self, page: Page, schema: Schema) -> None:
        self._page = page
        self._schema = schema

    def fill(self, content: Mapping[str, Any], fields: Schema | None = None) -> None:
        """Fill in these fields, by their names; those of sections and of lists too."""
        fields = self._schema if fields is None else fields
        for name, value in content.items():
            facts = fields["properties"][name]
            target = self._target(facts)
            title = facts.get("title") or target["title"]
            label = title if name in fields.get("required", ()) else f"{title} (Optional)"
            if isinstance(value, Mapping):
                self.fill(value, target)
            elif isinstance(value, list):
                self._add(label, value, self._target(facts["items"]))
            elif "enum" in target:
                self._page.get_by_role("button", name=f"Select {title}").click()
                self._page.get_by_role("option", name=str(value), exact=True).click()
            elif target.get("format") == "date":
                self._page.get_by_role("button", name=label).click()
                self._page.get_by_role("textbox", name="Date (yyyy-MM-dd)").fill(value)
                self._page.keyboard.press("Escape")
            else:
                self._write(self._page.get_by_label(label, exact=True), value)

    def _target(self, facts: Schema) -> Schema:
        if "$ref" not in facts:
            return facts
        found: Schema = self._schema["definitions"][facts["$ref"].removeprefix(_DEFINED)]
        return found

    def _add(self, label: str, entries: list[Any], target: Schema) -> None:
        for number, entry in enumerate(entries, start=1):
            self._after(label, "button[normalize-space(.)='Add item'][1]").click()
            if isinstance(entry, Mapping):
                self.fill(entry, target)
            else:
                self._write(self._after(label, f"textarea[{number}]"), entry)

    def _after(self, label: str, what: str) -> Locator:
        return self._page.locator(f"xpath=//label[normalize-space(.)='{label}']/following::{what}")

    @staticmethod
    def _write(field: Locator, value: object) -> None:
        if isinstance(value, bool):
            if value:
                field.click()
        else:
            field.fill(str(value))
