"""What pyproject.toml cannot express: the folder `migrations` is a part of the package where it is installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["storefront", "storefront.*"]), "storefront.migrations", "storefront.migrations.versions"],
    package_dir={"storefront.migrations": "migrations"},
)
