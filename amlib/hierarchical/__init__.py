"""Hierarchies of layers and synapses under one energy."""

from amlib.hierarchical import models as models
from amlib.hierarchical.attention import AttentionSynapse as AttentionSynapse
from amlib.hierarchical.dynamics import CoreEuler as CoreEuler
from amlib.hierarchical.energy_transformer import EnergyTransformer as EnergyTransformer
from amlib.hierarchical.graph import Connection as Connection
from amlib.hierarchical.ham import HAM as HAM
from amlib.hierarchical.hidden import (
    DenseMatrixSynapse as DenseMatrixSynapse,
    DenseTensorSynapse as DenseTensorSynapse,
    MixerSynapse as MixerSynapse,
)
from amlib.hierarchical.image_energy_transformer import (
    ImageEnergyTransformer as ImageEnergyTransformer,
    load_energy_transformer as load_energy_transformer,
)
from amlib.hierarchical.lagrangians import (
    lagr_exp as lagr_exp,
    lagr_ghostmax as lagr_ghostmax,
    lagr_identity as lagr_identity,
    lagr_layernorm as lagr_layernorm,
    lagr_relu as lagr_relu,
    lagr_repu as lagr_repu,
    lagr_rexp as lagr_rexp,
    lagr_sigmoid as lagr_sigmoid,
    lagr_softmax as lagr_softmax,
    lagr_spherical_norm as lagr_spherical_norm,
    lagr_tanh as lagr_tanh,
)
from amlib.hierarchical.layers import (
    ExpLayer as ExpLayer,
    GhostmaxLayer as GhostmaxLayer,
    IdentityLayer as IdentityLayer,
    Lagrangian as Lagrangian,
    LayerNormLayer as LayerNormLayer,
    NeuronLayer as NeuronLayer,
    ReluLayer as ReluLayer,
    RepuLayer as RepuLayer,
    RexpLayer as RexpLayer,
    SigmoidLayer as SigmoidLayer,
    SoftmaxLayer as SoftmaxLayer,
    SphericalNormLayer as SphericalNormLayer,
    TanhLayer as TanhLayer,
)
from amlib.hierarchical.spatial import (
    ConvPoolSynapse as ConvPoolSynapse,
    ConvSynapse as ConvSynapse,
)
from amlib.hierarchical.synapses import (
    AbstractSynapse as AbstractSynapse,
    BiasSynapse as BiasSynapse,
    DenseSynapse as DenseSynapse,
    LinearSynapse as LinearSynapse,
    LinearSynapseWithBias as LinearSynapseWithBias,
)
from amlib.hierarchical.vectorized import VectorizedHAM as VectorizedHAM
