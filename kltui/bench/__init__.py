"""Speed as ratios: kltui beside the reference procedure and the machine's floors, in one run."""
