"""Deploying the contracts as one set that either fits together or is void.

`deploy` is what `ape run deploy`, the demo and the contract tests call. It needs a built project (`ape compile`),
a node and a signer, but not Ape.
"""

from scripts.deployment.artifacts import Artifact, load_build
from scripts.deployment.profiles import Network, network_of
from scripts.deployment.run import Settings, deploy
from scripts.deployment.signer import KeySigner, Signer

__all__ = ["Artifact", "KeySigner", "Network", "Settings", "Signer", "deploy", "load_build", "network_of"]
