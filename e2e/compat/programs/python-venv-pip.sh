# SPDX-License-Identifier: Apache-2.0
# venv, and pip from a local wheel.
set -e
cd /tmp; python3 -m venv --system-site-packages v; mkdir -p src/greet; echo 'def hello(): return "hello from the wheel"' > src/greet/__init__.py
cat > src/setup.py <<'P'
from setuptools import setup
setup(name="greet", version="1.2", packages=["greet"], entry_points={"console_scripts": ["greet=greet:main"]})
P
echo 'def main(): print(hello())' >> src/greet/__init__.py
(cd src && python3 setup.py -q bdist_wheel 2>/dev/null); ls src/dist
v/bin/pip --disable-pip-version-check install -q --no-index src/dist/*.whl; v/bin/greet; v/bin/pip --disable-pip-version-check list 2>/dev/null | grep greet
v/bin/python -c 'import sys; print(sys.prefix)'; v/bin/pip uninstall -q -y greet; v/bin/python -c 'import greet' 2>&1 | tail -n 1
