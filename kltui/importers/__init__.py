"""What others have released, read into plain data: modelmap's files and lm-evaluation-harness samples."""
