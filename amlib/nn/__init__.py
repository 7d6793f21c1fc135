"""Layers for any network whose core is an energy: association, pooling, lookup, plain retrieval."""

from amlib.nn.hopfield import Hopfield as Hopfield
from amlib.nn.lookup import HopfieldLayer as HopfieldLayer
from amlib.nn.pooling import HopfieldPooling as HopfieldPooling
from amlib.nn.retrieval import retrieve as retrieve
