"""What an S3 client's complaint means, whichever client it was."""

from __future__ import annotations

from typing import Final

from service.errors import ReadOnly, SmaltiError, Unavailable

_KEYS: Final = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure")
_NO_KEYS: Final = ("loading credentials", "169.254.169.254")
_DENIED: Final = ("AccessDenied", "403 Forbidden", "401 Unauthorized")
_NO_NAME: Final = ("dns error", "failed to lookup address")
_NO_TLS: Final = ("InvalidCertificate", "invalid peer certificate", "InvalidContentType")
_ELSEWHERE: Final = ("PermanentRedirect", "AuthorizationHeaderMalformed", "301 Moved", "IllegalLocationConstraint")


def trouble(location: str, text: str, *, writing: bool = False) -> SmaltiError:
    """What an S3 client's complaint means, whichever client it was: names the place and what to do."""

    def says(*words: str) -> bool:
        return any(word in text for word in words)

    if says("NoSuchBucket"):
        return Unavailable(f"{location}: there is no such bucket.", remedy="Make it, or mend the address.")
    if says(*_ELSEWHERE):
        return Unavailable(f"{location}: the bucket lies in another region.", remedy="Set AWS_REGION to its region.")
    if says(*_KEYS):
        return Unavailable(
            f"{location}: the credentials were refused.", remedy="Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if says(*_NO_KEYS):
        return Unavailable(
            f"{location}: there are no credentials.",
            remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket.",
        )
    if says(*_DENIED):
        if writing:
            return ReadOnly(f"{location} cannot be written to: the credentials do not allow it.")
        return Unavailable(f"{location}: access was denied.", remedy="Check what these credentials may do there.")
    if says(*_NO_NAME):
        return Unavailable(f"{location} could not be reached: no server has that name.", remedy="Check the address.")
    if says(*_NO_TLS):
        return Unavailable(
            f"{location} could not be reached: the server shows no certificate that is trusted here.",
            remedy="Check the address, and whether it is https:// or http://.",
        )
    return Unavailable(
        f"{location} could not be reached, or did not answer in time.",
        remedy=f"Check {'AWS_ENDPOINT_URL' if location.startswith('s3:') else 'the address'} and the network; it is "
        "tried again by itself.",
    )
