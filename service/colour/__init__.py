"""Views: from stored vectors to one to four bands, and from those to colour. Bases make colours stay the same."""

from service.colour.basis import Basis, fit_basis
from service.colour.observations import ObservationsView
from service.colour.project import project
from service.colour.region import Region
from service.colour.scored import ChangeView, Scale, SimilarityView, side_by_side
from service.colour.spec import ViewSpec, parse_view
from service.colour.stored import StoredView, VectorView
from service.colour.tone import Tone
from service.colour.views import BandsView, PcaView, View

__all__ = [
    "BandsView",
    "Basis",
    "ChangeView",
    "ObservationsView",
    "PcaView",
    "Region",
    "Scale",
    "SimilarityView",
    "StoredView",
    "Tone",
    "VectorView",
    "View",
    "ViewSpec",
    "fit_basis",
    "parse_view",
    "project",
    "side_by_side",
]
