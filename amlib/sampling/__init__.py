"""Chains of states at a temperature, of any memory: draw, anneal, temper, and judge the draws."""

from amlib.sampling.annealing import Annealed as Annealed
from amlib.sampling.hamiltonian import HMC as HMC, NUTS as NUTS
from amlib.sampling.sample import sample as sample
from amlib.sampling.samplers import AbstractChainSampler as AbstractChainSampler, Recalls as Recalls
from amlib.sampling.samples import Samples as Samples
from amlib.sampling.tempering import Tempering as Tempering, even_swaps as even_swaps
