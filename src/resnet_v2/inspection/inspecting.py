"""`inspect`: the pictures are looked at, the page is written, and the temperature where that is asked for."""

from resnet_v2.config.inspecting import InspectConfig
from resnet_v2.console import say
from resnet_v2.errors import ResnetError
from resnet_v2.inference.classifier import load
from resnet_v2.inspection import page
from resnet_v2.inspection.calibration import refuse_to_write, write_temperature
from resnet_v2.inspection.inspection import Inspection, examine
from resnet_v2.inspection.labelled import open_labelled
from resnet_v2.interchange.optional import package
from resnet_v2.training.distributed import choose_device


def inspect(settings: InspectConfig) -> Inspection:
    """Look at the pictures, write the page, and the temperature where that is asked for.

    Raises ResnetError before anything is read where something could not be written, or cleanlab is not installed.
    """
    package("cleanlab", "inspect")
    page.refuse_to_write(settings.out)
    if settings.calibrate is not None:
        refuse_to_write(settings.prefix, settings.epoch, settings.calibrate)
        if (settings.val or settings.rec).is_dir():  # of whose files no checkpoint tells whether they were trained on
            raise ResnetError(
                f"{settings.val or settings.rec} is a folder, and the network may have been trained on its pictures; "
                "give `val` a record of others, such as the NAME_val.rec that `resnet-v2 train FOLDER` leaves."
            )
    sets = [open_labelled(place) for place in (settings.rec, settings.val) if place is not None]
    for remark in (remark for its in sets for remark in its.remarks):
        say(remark)
    network = load(settings.prefix, settings.epoch, str(choose_device(settings.gpus, settings.device)))
    found = examine(sets, network, named=bool(settings.prefix))
    page.write(found, settings.out)
    if settings.calibrate is not None:
        write_temperature(settings.prefix, settings.epoch, _temperature(found), settings.calibrate)
    return found


def _temperature(found: Inspection) -> float:
    """The temperature to write; ResnetError where there is none that helps."""
    its = found.calibration
    if its is None:
        raise ResnetError(f"No temperature is written: {found.silence or found.uncalibrated}")
    if found.trained:
        raise ResnetError(
            "No temperature is written: the network was trained on these pictures, and is surer of them than of "
            "others; give others as `val`."
        )
    if its.error_after >= its.error_before:
        before, after = (f"{100 * error:.2f}" for error in (its.error_before, its.error_after))
        raise ResnetError(
            f"No temperature is written: on the other half of the pictures it makes the calibration error {after} "
            f"points, from {before}; leave `calibrate` out."
        )
    return its.temperature
