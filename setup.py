"""What the suite needs, and within which bounds.

The suite is a program one clones: `pip install -e .` brings the dependencies and puts the checkout on Python's path; no
wheel of it is published. `make demo` and `make test` do this in a virtual environment of their own.

The suite is tested with the newest release within each bound. An upper bound without a comment is the next major
release, which may change what we call; a lower one without a comment keeps out what nobody has tried.
"""

from setuptools import find_packages, setup

REQUIRED = [
    "torch>=2.6,<3",  # 2.6: the first whose `torch.load` is weights_only unless told otherwise
    "torchvision>=0.21,<1",  # 0.21 belongs to torch 2.6; each torchvision names the torch it was built for
    "pytorch-lightning>=2.6,<2.7",  # recipes and checkpoints are in the form that 2.6 reads
    "jsonargparse[signatures]>=4.39,<4.48",  # from 4.48 on, the calls that Lightning 2.6 makes are deprecated
    "pillow>=10.2",  # 10.2: the first that writes restart markers; majors come every few months and keep what we call
    "numpy>=2.0,<3",  # 2.0 changed how mixed types are promoted; results should not depend on which rule is installed
    "scipy>=1.13,<2",  # 1.13: the first built for numpy 2
    "scikit-learn>=1.4.2,<2",  # 1.4.2: the first built for numpy 2
    "numba>=0.60,<1",  # 0.60: the first that works with numpy 2; compiles what the loaders do with pixels
    # numba's own threading layer, `workqueue`, aborts the process when two loaders run at once. There are wheels of tbb
    # for Linux on x86_64; elsewhere numba may find OpenMP.
    "tbb>=2021.6; platform_machine == 'x86_64' and sys_platform == 'linux'",  # numba's own minimum; versions are years
    "timm>=1.0,<2",
    "wandb>=0.31,<0.32",  # exactly this series: how it finds keys and goes on with runs changes between them
    "filelock>=3.12,<5",
    "tabulate>=0.9,<1",
    "tqdm>=4.66,<5",
    "matplotlib>=3.9,<4",  # plots of measurements; 3.9: the first built for numpy 2
    "pyyaml>=6.0,<7",
]

FFCV = [
    "ffcv==1.0.2",  # exactly this one, its classes are reached into; compiled on installation, see .ci/setup
    "setuptools>=77",  # ffcv imports distutils, which Python >= 3.12 has from setuptools only
]

PARQUET = [
    "pyarrow>=17,<27",  # ImageNet in Hugging Face's shards; 17: the first built for numpy 2 on every Python here
]

REPORT = [
    "altair>=6,<7",  # draws the plots of `leaderboard --html`
    "vl-convert-python>=1.9,<2",  # holds the Vega that altair 6 draws for, as one script that the page brings along
    "itables>=2.9,<3",  # holds DataTables likewise; 2.9: the first whose script hands out jQuery as the page calls it
    "jinja2>=3.1,<4",  # altair needs it too
    "wandb-workspaces>=0.4.13,<0.5",  # W&B reports; what they send is read by a method of no public name
]

DEV = [
    "pytest>=8,<10",
    "pytest-xdist>=3.8,<4",
    "ruff>=0.14,<1",
    "mypy>=1.18,<3",
    "pre-commit>=4,<5",
    "selenium>=4.20,<5",  # drives the browser that tests open the page in; from 4 on it needs no server
    "types-PyYAML>=6.0,<7",
    "types-tabulate>=0.9,<1",
    "types-tqdm>=4.66,<5",
    "adversarial-robustness-toolbox>=1.20,<2",  # tests hold our attacks to its; adds nothing else but `six`
]

ORACLES = [
    "foolbox>=3.3.4,<4",  # a second library that tests hold our attacks to, where it is installed
]

setup(
    name="ilsvrc-bench",
    version="0.1.0",
    description="ILSVRC-era results, trained again as their papers did and measured",
    classifiers=["Private :: Do Not Upload"],  # package indexes refuse an upload that carries this
    packages=find_packages(
        include=["benchmarks", "benchmarks.*", "datamodules", "datamodules.*", "models", "models.*"]
    ),
    package_dir={"": "."},  # an editable install is then one line in a .pth file, which type checkers follow
    python_requires=">=3.10,<3.14",
    install_requires=REQUIRED,
    extras_require={
        "ffcv": FFCV,
        "parquet": PARQUET,
        "oracles": ORACLES,
        "report": REPORT,
        "dev": DEV + PARQUET + REPORT,
        "all": FFCV + DEV + PARQUET + ORACLES + REPORT,
    },
    entry_points={"console_scripts": ["ilsvrc-bench = benchmarks.cli:main"]},
)
