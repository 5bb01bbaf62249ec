"""The sub-commands of `onevision`, a module each: `run`, whose parameters are the options, or an `app`.

`groups` reads the signature, `options` holds what several commands have, `printing` what several print.
Importing one of these modules imports nothing large: what a command needs is imported when it runs.
"""
