"""An index whose shards lie on several machines: what they ask each other, and how it becomes one answer."""
