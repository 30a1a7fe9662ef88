"""The text of kltui --help before and after the options."""

from __future__ import annotations

# argparse would print all options, fifteen lines of them, before every message about a mistake.
USAGE = "kltui [COMMAND] [OPTIONS] [WORKSPACE]   (kltui -h: commands and examples; kltui --COMMAND --help: its options)"

DESCRIPTION = """\
Language models in log-likelihood space: trajectories, KL divergence, diffusion exponents.

A model's log-likelihoods of a fixed set of texts are its coordinates. kltui scores checkpoints on a corpus,
stores the vectors in a workspace (a folder), and shows how models move."""

EXAMPLES = """\
  kltui --demo                     pretrain, score and report a small suite here (about 3 minutes)
  kltui kltui-demo                 open it
  kltui --batch job.toml           score the models of a job file; run it again to resume
  kltui --batch job.toml --dry-run --set corpus.sample=100
  kltui --report pythia --section diffusion
  kltui --report pythia --section drivers --pair tiny@100 tiny@200
  kltui --report pythia --section exact --pair tiny@100 tiny@200   exact next-token KL: runs both models
  kltui --report pythia --section directions --pair tiny@100 tiny@200   domains that this step moved towards
  kltui --report pythia --section tree --pair unknown tiny@200   family trees; whether `unknown` descends from it
  kltui --report pythia --section corpora   KL on each corpus; --over HASH: the report of another one
  kltui --report pythia --preprocess pretraining --exclude pythia-1b@116000 --save-map main
  kltui --report pythia --map main   the same vectors with the same preprocessing, whatever is scored later
  kltui --import scores.csv pythia   benchmark scores: a column name, then one column per task (0 to 100)
  kltui --place runs/mine pythia   where your model lies on that map (--texts 1000: faster)
  kltui --draw 1000 pythia         a sample of texts on which new models can be scored faster
  kltui --import vectors.npz --import texts.json --declare bos=auto released   vectors scored elsewhere
  kltui --export out pythia        CSV and npz files
  kltui --figure trajectories --out fig.pdf --width 85mm pythia   a figure for a paper, with fig.csv and fig.py
  kltui --share pythia.html pythia           an interactive web page to share
  kltui --reproduce modelmap --out papers   the papers' figures from a copy of their repository
  kltui --bench 70m --part final --against lm_eval   scoring speed, also of lm-evaluation-harness"""

# The examples of the short help.
FIRST_EXAMPLES = """\
examples
  kltui --demo                     pretrain, score and report a small suite here (about 3 minutes)
  kltui kltui-demo                 open it
  kltui runs/mine                  score the checkpoints in a folder; kltui asks for the texts
  kltui --batch job.toml           score the models of a job file; run it again to resume
  kltui --report mine              print the results of a workspace
  kltui --export out mine          CSV and npz files"""

FIRST_JOB_FILE = """\
a job file
  workspace = "mine"               # the folder for the results; paths are relative to this file
  [corpus]
  source = "texts.jsonl"           # the texts
  sample = 1000
  [[models]]
  path = "runs/mine"               # a model folder, or a folder of checkpoints step500, step1000, ...
  [[models]]
  repo = "EleutherAI/pythia-70m"   # or the hub
  revisions = ["step1000", "step143000"]"""

JOB_FILE = """\
a job file
  workspace = "pythia"             # paths are relative to this file
  [corpus]
  source = "texts.json"            # .json list, .jsonl, .csv, .tsv, .parquet, .txt, compressed (.gz, .zst), a folder, a pattern,
                                   # hf://datasets/OWNER/NAME/*.parquet, "demo", or "map": the texts of the workspace
  field = "text"                   # field of the text; domain = "meta.set": field of the domain
  sample = 1000
  kind = "pairs"                   # rows {prompt, response} or {messages}: only the response is scored, log p(response | prompt)
  template = "chat"                # format the prompt with the tokenizer's chat template; "none": as written
  [[models]]
  path = "runs/tiny"               # a model folder, or a run folder with step500, step1000, ...
  tokenizer = "runs/base"          # folder or repo, for checkpoints without a tokenizer
  [[models]]
  repo = "EleutherAI/pythia-410m"  # or the hub
  revisions = ["step{0,1,2,4,8}", "step{1000..143000..1000}"]  # "all" and "stage1-*" ask the hub
  [[models]]
  preset = "pythia-70m"            # a known run: repository, revisions, size and type
  [[models]]
  endpoint = "http://127.0.0.1:8000/v1"  # a server such as vLLM that returns log-probabilities of prompts
  model = "NAME"                   # its name on the server; concurrency = 16, api_key_env = "VARIABLE"
  tokenizer = "runs/base"
  [[interpolations]]               # interpolate the weights of checkpoints named above
  base = "tiny@1000"
  others = ["tiny@500", "pythia-410m@1000"]
  grid = [0.0, 0.5, 1.0]
  [scoring]
  dtype = "float32"                # "auto": as stored; a job reports how much faster that would be
  layers = "none"                  # "all": a vector for every layer (logit lens)
  unconditional = false            # true, for pairs: also score the response without its prompt (--values)
  [engine]
  workers = 1                      # number of processes, one per GPU
  device_map = "none"              # "auto": spread a model that is larger than one GPU"""

EXIT_CODES = """\
exit codes
  0 done   1 failed, or some checkpoints, files, sections failed; no data for a figure or page
  2 usage   3 workspace in use or unusable   75 try again later
  130 / 143 / 129 stopped by ctrl-C / TERM / HUP   138 paused by USR1 or the interface"""

EPILOG = f"""\
examples
{EXAMPLES}

{JOB_FILE}

environment
  KLTUI_ISA=portable | avx2 | avx512 | amx   instruction set of the compiled core (default: the best available)

{EXIT_CODES}"""
