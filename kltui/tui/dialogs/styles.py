"""Style sheet of the dialogs; in a module of its own, because the application needs it before any dialog is imported."""

CSS = """
Prompt, ChoiceDialog, Form, TextDialog { background: transparent; align: center bottom; }
TextDialog { align: center middle; }
.sheet { width: 100%; height: auto; max-height: 80%; }
.sheet Input { height: 1; border: none; padding: 0 1; width: 100%; }
.sheet Input:focus { border: none; }
Input > .input--placeholder, Input > .input--suggestion { color: #a8a8a8; }
App.-light Input > .input--placeholder, App.-light Input > .input--suggestion { color: #4e4e4e; }
.sheet FormRow { width: 100%; height: 1; }
.sheet FormRow Input { width: 1fr; }
.sheet FieldName { width: 15; height: 1; }
TextDialog > .sheet { width: 90%; max-width: 110; max-height: 85%; border: round #767676; padding: 0 1; background: #1c1c1c; }
App.-light TextDialog > .sheet { background: #ffffff; border: round #8a8a8a; }
App.-ascii TextDialog > .sheet { border: ascii #767676; }
TextDialog > .sheet TextPane { height: 1fr; }
"""
