"""The name of the database in a workspace's folder; in a module of its own, because it is asked for before SQLite is needed."""

FILE_NAME = "kltui.sqlite"
