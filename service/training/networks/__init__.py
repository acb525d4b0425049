"""Every published TESSERA network: v1.0 early and QAT, v1.1, v2 students and teacher."""

from service.training.networks.backbone import DAYS, Backbone, doy_encoding
from service.training.networks.layers import Layer, LayerShape, QKNormLayer, Stack
from service.training.networks.pooling import Cell, CellPool, GruPool, Pool, RecurrentPool
from service.training.networks.published import (
    V10,
    V11,
    Network,
    Sizes,
    Student,
    StudentConfig,
    Teacher,
    TeacherConfig,
    build,
    load_student,
)

__all__ = [
    "DAYS",
    "V10",
    "V11",
    "Backbone",
    "Cell",
    "CellPool",
    "GruPool",
    "Layer",
    "LayerShape",
    "Network",
    "Pool",
    "QKNormLayer",
    "RecurrentPool",
    "Sizes",
    "Stack",
    "Student",
    "StudentConfig",
    "Teacher",
    "TeacherConfig",
    "build",
    "doy_encoding",
    "load_student",
]
