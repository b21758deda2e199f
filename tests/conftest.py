"""What all tests share."""

import torch

# The tests' networks are tiny: two threads wait for each other longer than they work.
torch.set_num_threads(1)
