"""Parts and what announces them: each trigger becomes exactly one part, whatever its cameras do."""

from edge_agent.parts.part import Part, Trigger

__all__ = ["Part", "Trigger"]
