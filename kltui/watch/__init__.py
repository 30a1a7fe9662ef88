"""A run watched while it trains: each checkpoint is scored as it lands, and what is out of the ordinary is reported."""
