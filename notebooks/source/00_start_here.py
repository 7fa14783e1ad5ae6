# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Start here
#
# A network that has seen a million pictures already knows edges, textures and shapes; this course
# is about using that knowledge for a task of your own. You work with real weights and real data,
# on the processor of your laptop, in notebooks that run from top to bottom in about a minute.
# Everything was put on this machine when you installed the course, so you need no account and no
# network.
#
# *This page takes two minutes.*

# %% [markdown]
# ## Which framework do you want to learn with?
#
# Each notebook exists twice, with the same experiments: once written as a Keras user writes it
# and once as a PyTorch user does. Take the one that you use at work, or the one that you have
# seen before.
#
# - [Keras on TensorFlow](../tensorflow/00_start_here.ipynb)
# - [PyTorch](../pytorch/00_start_here.ipynb)

# %% [markdown] tags=["tensorflow"]
# You are reading the **Keras** version.

# %% [markdown] tags=["pytorch"]
# You are reading the **PyTorch** version.

# %% [markdown]
# ## Is this machine ready?
#
# Every notebook opens with the two cells below: what to run, and a call that prepares the
# framework, the processor and the random numbers. `PROFILE` is `"cpu"` for the lesson as it is
# written; `"gpu"` takes more data and larger models where there is a graphics card.
#
# Run them with <kbd>Shift</kbd> + <kbd>Enter</kbd>.

# %% tags=["parameters"]
PROFILE = "cpu"
SEED = 0

# %% tags=["tensorflow"]
from tlcourse import runtime

run = runtime.start("tensorflow", PROFILE, SEED)

# %% tags=["pytorch"]
from tlcourse import runtime

run = runtime.start("pytorch", PROFILE, SEED)

# %% [markdown]
# One line appears: the framework with its version, the profile, the processor and the seed. If
# you see an error instead, go to the last section of this page.

# %% [markdown]
# ## Where do you go from here?
#
# - **04 [Feature extraction](04_feature_extraction.ipynb)**: what does a pretrained network
#   already know about pictures it has never seen, and which of its layers do you ask? About 40
#   minutes to read, 1.5 to run.
# - **07 [BERT: fine-tuning](07_bert_fine_tuning.ipynb)**: when does training a language model
#   further beat leaving it as it is, and when does it not? About 45 minutes to read, 1.5 to run.
#
# Begin with 04: it needs nothing but some Python and the idea of a classifier.
#
# A notebook asks before it shows. Write your answer down, then run the cell; what surprises you
# is what you learn. Boxes such as *✔ holds* are claims: the notebook computes them on this
# machine, and stops if one is not true.

# %% [markdown]
# ## What do you do when something fails?
#
# 1. Restart the kernel and run all cells (the ⏩ button). A cell that ran in the wrong order is
#    the most common reason.
# 2. Open a terminal (*File*, *New*, *Terminal*) in the course's folder and type
#
#    ```
#    .venv/bin/tlcourse doctor
#    ```
#
#    (on Windows `.venv\Scripts\tlcourse doctor`). It checks the installation, the weights and the
#    data, and says what to do about each problem.
# 3. Weights or data that are damaged are fetched again by themselves; that once needs a network.
