"""Style sheet of the dialogs; in a module of its own, because the application needs it before any dialog is imported."""

CSS = """
Prompt, ChoiceDialog, Form, TextDialog { background: transparent; align: center bottom; }
TextDialog { align: center middle; }
.sheet { width: 100%; height: auto; max-height: 80%; }
.sheet FormLines { overflow: hidden hidden; }
LineInput { background: #303030; background-tint: #e0e0e0 5%; color: #e4e4e4; width: 1fr; height: 1; padding: 0 1; scrollbar-size-horizontal: 0; }
App.-light LineInput { background: #d0d0d0; color: #262626; }
TextDialog > .sheet { width: 90%; max-width: 110; max-height: 85%; border: round #767676; padding: 0 1; background: #1c1c1c; }
App.-light TextDialog > .sheet { background: #ffffff; border: round #8a8a8a; }
App.-ascii TextDialog > .sheet { border: ascii #767676; }
TextDialog > .sheet TextPane { height: 1fr; }
"""
