"""The settings: is each of them one, and is what they name there?"""

from collections.abc import Iterator

from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from market_spine import schedule
from market_spine.checks import Finding
from market_spine.errors import RequestError
from market_spine.settings import Settings, settings

PREFIX = "spine_"  # the sources write names in small letters
FOLDERS = {"spine_migrations", "spine_mappings", "spine_api_sources"}


def check() -> Iterator[Finding]:
    """Look at them; a value that is no value at all was said by whoever began."""
    sources = EnvSettingsSource(Settings), DotEnvSettingsSource(Settings)
    named = {name for source in sources for name in source.env_vars}
    for name in sorted(named - Settings.model_fields.keys()):
        if name.startswith(PREFIX):
            what = f"{name.upper()} is no setting"
            yield Finding(what=what, todo="see .env.example for their names")
    for field in sorted(FOLDERS & settings().model_fields_set):
        folder = getattr(settings(), field)
        if not folder.is_dir():
            what = f"{field.upper()}: there is no folder {folder.absolute()}"
            yield Finding(what=what, todo="name the one that is meant, or make it")
    if settings().spine_http_token and not settings().spine_http_sources.split():
        what = "SPINE_HTTP_TOKEN is sent nowhere, since SPINE_HTTP_SOURCES names nothing"
        yield Finding(what=what, todo="name there what it is for")
    try:
        schedule.load()
    except RequestError as error:
        yield Finding(what=str(error), todo="mend the file; beat does not start with it")
