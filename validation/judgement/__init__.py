"""The judgement: diagnostics, verdict, advice and baseline of run files together."""
