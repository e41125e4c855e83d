"""The application that `serve` runs: MLflow's scoring server for a registered model, with `/invocations` of our own.

MLflow's would decode whatever is sent before anybody counts it, and `/mask` is not there.
"""

import asyncio
import io
import os
import sys

import mlflow
import pandas as pd
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server

from experiments.registry.registry import ModelInfo
from experiments.serving.invocations import (
    COLUMN,
    Invocation,
    Refused,
    check_content_type,
    check_pixels,
    read_invocation,
)
from seg.errors import UserError

_INVOCATIONS = "/invocations"


def load_served_model(model: ModelInfo, uri: str) -> PyFuncModel:
    """Loads a registered version with the code that was registered with it, into this process.

    Args:
        model: the version.
        uri: of the store that has it.

    Raises:
        UserError: if the version holds pickled code.
    """
    # Else its own copy of `seg` would be passed over for the one that is imported here, which may be newer.
    for name in [name for name in sys.modules if name == "seg" or name.startswith("seg.")]:
        del sys.modules[name]
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    mlflow.set_tracking_uri(uri)
    try:
        return mlflow.pyfunc.load_model(model.uri)
    except MlflowException as error:
        reason = str(error).partition(". ")[0]
        raise UserError(
            f"{model.uri} must be a model that loads without pickles, got: {reason}; choose another."
        ) from None


def build_app(model: PyFuncModel) -> FastAPI:
    """MLflow's endpoints (`/invocations`, `/ping`, `/health`, `/version`) and `/mask`."""
    app: FastAPI = scoring_server.init(model)
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") != _INVOCATIONS]

    @app.exception_handler(MlflowException)
    async def answer_mistake(request: Request, error: MlflowException) -> JSONResponse:
        return JSONResponse({"message": error.message}, error.get_http_status_code())

    @app.exception_handler(Refused)
    async def answer_refused(request: Request, refused: Refused) -> JSONResponse:
        return JSONResponse({"message": refused.message}, refused.status)

    @app.post(_INVOCATIONS)
    async def invocations(request: Request) -> Response:
        """Images as JSON; the masks as JSON, in MLflow's form."""
        check_content_type(request.headers.get("content-type"))
        answer = await asyncio.to_thread(_answer, model, await request.body())
        return Response(answer, media_type="application/json")

    @app.post("/mask")
    async def mask(
        request: Request, threshold: float | None = None, tta: str | None = None, largest_component: str | None = None
    ) -> Response:
        """An encoded image as the body; its mask as a PNG of the image's own size: 0 and 255, or 0 and classes."""
        asked = {"threshold": threshold, "tta": tta, "largest_component": largest_component}
        params = {name: value for name, value in asked.items() if value is not None}
        found = await asyncio.to_thread(model.predict, {"image": [await request.body()]}, params=params)
        row = found.iloc[0]
        if row["error"]:
            return JSONResponse({"message": row["error"]}, 400)
        headers = {"X-Confidence": f"{row['confidence']:.4f}", "X-Unlike": row["unlike"]}
        if "areas" in row:
            headers["X-Areas"] = row["areas"]
        return Response(row["mask_png"], media_type="image/png", headers=headers)

    return app


def _answer(model: PyFuncModel, body: bytes) -> str:
    asked: Invocation = read_invocation(body)
    check_pixels(asked.cells)
    # Of any other type, pandas would make columns of its own of texts and missing values.
    frame = pd.DataFrame({COLUMN: pd.Series(asked.cells, dtype=object)})
    answer = io.StringIO()
    scoring_server.predictions_to_json(model.predict(frame, params=asked.params), answer)
    return answer.getvalue()
