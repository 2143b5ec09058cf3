"""Run every test and close with the plain line `N passed, N failed, N skipped`. Arguments go to pytest."""
import sys

import pytest


class Count:
    """Counts outcomes; an error while setting up or tearing down is a failure."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def pytest_runtest_logreport(self, report):
        self.failed += report.failed
        self.skipped += report.skipped
        self.passed += report.passed and report.when == "call"


count = Count()
status = pytest.main(["tests", *sys.argv[1:]], plugins=[count])
print(f"\n{count.passed} passed, {count.failed} failed, {count.skipped} skipped", flush=True)
sys.exit(int(status))
