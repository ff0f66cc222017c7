"""The embedded world as evidence: two bases, five seeds of the method, and what was to be measured fixed beforehand."""
