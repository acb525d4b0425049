"""Views: from stored vectors to one to four bands, and from those to colour. Bases make colours stay the same."""

from service.colour.basis import Basis, fit_basis
from service.colour.project import project
from service.colour.views import BandsView, PcaView, SimilarityView, VectorView, View, ViewSpec, parse_view

__all__ = [
    "BandsView",
    "Basis",
    "PcaView",
    "SimilarityView",
    "VectorView",
    "View",
    "ViewSpec",
    "fit_basis",
    "parse_view",
    "project",
]
