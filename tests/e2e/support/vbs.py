"""The call, and the shares that the sandbox knows."""

SERVICE = "vbs.v2.BackupShareService"
METHOD = f"{SERVICE}/GetBackupShare"
PROJECT = "c13f5220dc1949b0b741ea81a7cd5554"
SHARE = "8332443e-9866-41d8-8a58-a898cf5db030"


def share_of_status(status):
    """The share for which the sandbox answers with this HTTP status."""
    return f"00000000-0000-4000-8000-000000000{status}"
