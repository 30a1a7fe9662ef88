"""What notebooks have besides: scoring without a workspace, data frames, pictures, tables as HTML."""
