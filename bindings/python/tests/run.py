"""Runs the tests of the package; the last line is as cargo's."""

import sys
import unittest
from pathlib import Path

if __name__ == "__main__":
    place = Path(__file__).resolve().parent
    sys.path.insert(0, str(place))
    suite = unittest.defaultTestLoader.discover(str(place), "test_*.py")
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    failed = len(result.failures) + len(result.errors)
    passed = result.testsRun - failed - len(result.skipped)
    good = failed == 0 and passed > 0
    sys.stdout.flush()
    print(f"test result: {'ok' if good else 'FAILED'}. {passed} passed; {failed} failed")
    sys.exit(0 if good else 1)
