"""The command line of mmpo with FSDP2 allowed on a CPU: torchrun ... soak/fsdp_on_cpu.py train recipe.yaml

accelerate divides a model on accelerators alone, though torch can do it with gloo as well. So that the very code that
runs on GPUs runs where there is none, accelerate is told here that it may.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from mmpo.cli import main


def allow_fsdp() -> None:
    plain = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **further: Any) -> None:
        plain(self, *args, fsdp_plugin=fsdp_plugin, **further)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


if __name__ == "__main__":
    allow_fsdp()
    main()
