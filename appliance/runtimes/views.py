"""Runtimes as the API shows them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from appliance.runtimes.schemas import Runtime, SettingView
from appliance.runtimes.spec import RuntimeSpec, Setting


def show_runtime(spec: RuntimeSpec, *, ready: bool) -> Runtime:
    forms = (("process", spec.process), ("docker", spec.docker))
    return Runtime(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        mode=spec.mode,
        engine_version=spec.engine_version,
        vendors=spec.vendors,
        excluded_classes=spec.excluded_classes,
        formats=spec.formats,
        quantised=spec.quantised,
        encrypted=spec.encrypted,
        architectures=spec.architectures,
        verified_architectures=spec.verified_architectures,
        routes=spec.routes,
        launchers=tuple(name for name, form in forms if form is not None),
        default_image=spec.default_image,
        ready=ready,
        args=_settings(spec.args),
        env=_settings(spec.env),
    )


def _settings(settings: Mapping[str, Setting]) -> list[SettingView]:
    return [SettingView(name=name, **structs.asdict(setting)) for name, setting in sorted(settings.items())]
