"""Layer-wise adaptive optimizers for Keras 3."""

from tf_lars.optimizers.clars import CLARS
from tf_lars.optimizers.lamb import LAMB
from tf_lars.optimizers.lans import LANS
from tf_lars.optimizers.larc import LARC
from tf_lars.optimizers.lars import LARS
from tf_lars.optimizers.novograd import NovoGrad
from tf_lars.optimizers.orscale import OrScale

__all__ = ["CLARS", "LAMB", "LANS", "LARC", "LARS", "NovoGrad", "OrScale"]
