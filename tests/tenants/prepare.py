"""``python -m tests.tenants.prepare NAME...``: makes customers, each with a user of its name, and
prints the key of a session of each, as JSON.
"""

import json
import sys

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from django_tenants.utils import tenant_context  # noqa: E402

from tests.tenants.customers.models import Customer, Domain  # noqa: E402

call_command("migrate_schemas", shared=True, verbosity=0)
keys = {}
for name in sys.argv[1:]:
    customer = Customer.objects.create(schema_name=name, name=name)
    Domain.objects.create(domain=f"{name}.localhost", tenant=customer)
    with tenant_context(customer):
        client = Client()
        client.force_login(User.objects.create_user(f"user of {name}"))
        keys[name] = client.session.session_key
json.dump(keys, sys.stdout)
