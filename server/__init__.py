"""The coordinator: rounds, registry, releases, enrolment, plant API."""
