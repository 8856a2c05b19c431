"""What verifiers v1 looks for in an environment package: one Taskset and one Env."""

from selfcorrect.adapters.verifiers import SelfCorrectEnv, SelfCorrectTaskset

__all__ = ["SelfCorrectEnv", "SelfCorrectTaskset"]
