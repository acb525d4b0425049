"""Ask the server of this container for one path; exit 0 only where it answers 200. Stands in for curl."""

import http.client
import os
import sys

asked = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("SMALTI_PORT", "8000")), timeout=4)
try:
    asked.request("GET", sys.argv[1])
    status = asked.getresponse().status
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"{sys.argv[1]}: {error}")
sys.exit(f"{sys.argv[1]}: {status}" if status != 200 else 0)
