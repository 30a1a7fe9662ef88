"""What kltui --help says before and after the options."""

from __future__ import annotations

# argparse's own line of every option would be fifteen lines above each message about a mistake.
USAGE = (
    "kltui [COMMAND] [OPTIONS] [WORKSPACE]   (a command is --demo, --batch JOB, --report, ...: kltui --help)"
)

DESCRIPTION = """\
Language models in log-likelihood space: trajectories, KL divergence, diffusion exponents.

A model's log-likelihoods of a fixed set of texts are its coordinates. kltui scores checkpoints on a corpus,
keeps the vectors in a workspace (a folder), and shows how models move."""

EPILOG = """\
examples
  kltui --demo                     pretrain, score and report a small suite here (about 3 minutes)
  kltui kltui-demo                 open it
  kltui --batch job.toml           score what the job file asks for; run it again to resume
  kltui --batch job.toml --dry-run --set corpus.sample=100
  kltui --report pythia --section diffusion
  kltui --report pythia --section drivers --pair tiny@100 tiny@200
  kltui --report pythia --section exact --pair tiny@100 tiny@200   exact next-token KL: both models run once more
  kltui --report pythia --section directions --pair tiny@100 tiny@200   domains that the step moved towards
  kltui --report pythia --section tree --pair unknown tiny@200   family trees; whether `unknown` descends from it
  kltui --report pythia --section corpora   KL on each corpus of texts; --over HASH: another one's report
  kltui --report pythia --preprocess pretraining --exclude pythia-1b@116000 --save-map main
  kltui --report pythia --map main   the same vectors, prepared the same way, whatever is scored later
  kltui --import scores.csv pythia benchmark scores: name, then one column per task (0 to 100)
  kltui --place runs/mine pythia   where a model of your own stands on that map (--texts 1000: in less time)
  kltui --draw 1000 pythia         texts on which a new model can be scored in less time
  kltui --import vectors.npz --import texts.json --declare bos=auto released   vectors scored elsewhere, and how
  kltui --export out pythia        CSV and npz files
  kltui --figure trajectories --out fig.pdf --width 85mm pythia   for a paper; fig.csv and fig.py come with it
  kltui --share pythia.html pythia           one page to hover over, zoom into and turn, for whoever has a browser
  kltui --reproduce modelmap --out papers   the papers' figures from a copy of their repository
  kltui --bench 70m --part final --against lm_eval   speed of one model's scoring, beside lm-evaluation-harness too

a job file
  workspace = "pythia"             # paths are relative to this file
  [corpus]
  source = "texts.json"            # .json list, .jsonl, .csv, .tsv, .parquet, .txt, packed (.gz, .zst), a folder, a pattern,
                                   # hf://datasets/OWNER/NAME/*.parquet, "demo", or "map": the workspace's own
  field = "text"                   # where a row has its text; domain = "meta.set": where it has its domain
  sample = 1000
  kind = "pairs"                   # rows {prompt, response} or {messages}: only the response is scored, log p(response | prompt)
  template = "chat"                # its prompt by the tokenizer's chat template; "none": as it stands
  [[models]]
  path = "runs/tiny"               # a model folder, or a run folder with step500, step1000, ...
  tokenizer = "runs/base"          # folder or repo, for checkpoints that have none beside them or in their run
  [[models]]
  repo = "EleutherAI/pythia-410m"  # or the hub
  revisions = ["step{0,1,2,4,8}", "step{1000..143000..1000}"]  # "all" and "stage1-*": as the hub lists them
  [[models]]
  preset = "pythia-70m"            # a known run: repository, revisions, size and type
  [[models]]
  endpoint = "http://127.0.0.1:8000/v1"  # served by vLLM or its like: token ids go, log-probabilities come back
  model = "NAME"                   # as the server calls it; concurrency = 16, api_key_env = "VARIABLE"
  tokenizer = "runs/base"
  [[interpolations]]               # models between checkpoints named above, made as they are needed
  base = "tiny@1000"
  others = ["tiny@500", "pythia-410m@1000"]
  grid = [0.0, 0.5, 1.0]
  [scoring]
  dtype = "float32"                # "auto": as stored; on a GPU a job says first how much faster that would be
  layers = "none"                  # "all": every layer through the logit lens
  unconditional = false            # true, of pairs: the response is scored without its prompt too (--values)
  [engine]
  workers = 1                      # processes, one a GPU where there are several
  device_map = "none"              # "auto": one process spreads a model that is larger than one GPU

environment
  KLTUI_ISA=portable | avx2 | avx512 | amx   the compiled core's instruction set (default: the best one here)

exit codes
  0 done   1 some checkpoints failed   2 usage   3 workspace in use or unusable   75 try again later
  130 / 143 / 129 stopped by ctrl-C / TERM / HUP"""
