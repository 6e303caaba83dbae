"""Writes the ABIs in protocol/abi/ that differ from the build: `make abi`."""

from scripts.deployment.artifacts import ROOT, export_abis, load_build

if __name__ == "__main__":
    for changed in export_abis(load_build()):
        print(f"wrote {changed.relative_to(ROOT)}")
